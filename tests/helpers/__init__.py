"""Shared by the tests: naive references, methods to test, toy data, fault injection."""
