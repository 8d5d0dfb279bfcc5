"""Scoring a model on the tasks."""
