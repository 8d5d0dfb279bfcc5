"""Rows and text: tasks, sources, splits, prompts and their tokens. No tensors."""
