"""Accuracy with its standard error."""

import math
from collections.abc import Iterable, Mapping, Sequence

from mosld.evaluation.generation import FinalNumber
from mosld.evaluation.multiple_choice import Prediction

Outcome = Prediction | FinalNumber


def accuracy(outcomes: Sequence[bool]) -> tuple[float, float]:
    """Mean of the outcomes and its standard error, sqrt(p (1 - p) / (n - 1)), both as shares of 1."""
    n = len(outcomes)
    mean = sum(outcomes) / n
    return mean, math.sqrt(mean * (1 - mean) / (n - 1)) if n > 1 else 0.0


def task_score(predictions: Sequence[Outcome], style: str) -> dict[str, float | int]:
    """The numbers of one task for results.json.

    `accuracy` compares options by likelihood where letters are answered, and by likelihood per character where the
    answer is the option's text (else short options win); there the raw comparison is `accuracy_raw`. Of worked
    solutions it is the share whose final number is right, whatever the style.
    """
    raw, raw_error = accuracy([p.correct for p in predictions])
    normalised = [p.normalised_correct for p in predictions if isinstance(p, Prediction)]
    if style == "letter" or not normalised:
        return {"accuracy": raw, "stderr": raw_error, "n": len(predictions)}
    mean, error = accuracy(normalised)
    return {
        "accuracy": mean,
        "stderr": error,
        "n": len(predictions),
        "accuracy_raw": raw,
        "stderr_raw": raw_error,
    }


def average(scores: Mapping[str, Mapping[str, float | int]]) -> float:
    """Mean accuracy over tasks, each task counting once."""
    values: Iterable[float] = [score["accuracy"] for score in scores.values()]
    return sum(values) / len(scores)
