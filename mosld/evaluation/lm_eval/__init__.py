"""Scoring by lm-evaluation-harness (lm-eval, an optional dependency). Only `tasks` can be imported without it."""
