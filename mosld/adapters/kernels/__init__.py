"""Faster versions of adapter products; each states the plain formula it equals."""
