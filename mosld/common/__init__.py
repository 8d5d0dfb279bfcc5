"""Errors, files, processes and secrets: the ground of every other package. Standard library only, no torch."""
