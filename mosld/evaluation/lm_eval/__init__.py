"""Scoring by lm-evaluation-harness."""
