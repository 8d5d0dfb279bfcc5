"""The scores of results.json: accuracy with its standard error, by task and by subject, and the average of tasks."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NotRequired, TypedDict, TypeVar

from mosld.config.schema import LETTER_PROMPTS
from mosld.data.subjects import CATEGORIES, CATEGORY, subject_of
from mosld.evaluation.generation import GeneratedPrediction, SolutionPrediction
from mosld.evaluation.multiple_choice import ChoicePrediction

Prediction = ChoicePrediction | GeneratedPrediction
Item = TypeVar("Item")


class Score(TypedDict):
    """The score of a task; accuracies and standard errors are shares of 1, `n` is the number of items."""

    accuracy: float
    stderr: float
    n: int
    accuracy_raw: NotRequired[float]
    stderr_raw: NotRequired[float]
    strict: NotRequired[float]
    stderr_strict: NotRequired[float]
    flexible: NotRequired[float]
    stderr_flexible: NotRequired[float]
    by_subject: NotRequired[dict[str, "Score"]]
    by_category: NotRequired[dict[str, "Score"]]


def accuracy_score(correct: Sequence[bool]) -> Score:
    """The mean p of n outcomes, with the standard error sqrt(p (1 - p) / (n - 1)) of lm-evaluation-harness."""
    n = len(correct)
    accuracy = sum(correct) / n
    return {"accuracy": accuracy, "stderr": math.sqrt(accuracy * (1 - accuracy) / (n - 1)) if n > 1 else 0.0, "n": n}


def task_score(predictions: Sequence[Prediction], style: str) -> Score:
    """The score of one task.

    Where the answer of a multiple-choice question is the option's text (`style` is list or cloze), `accuracy` compares
    likelihoods per character, since the raw comparison favours short options; that one is `accuracy_raw`. Worked
    solutions also have the scores of lm-evaluation-harness, `strict` and `flexible`.
    """
    score = accuracy_score([prediction.correct for prediction in predictions])
    solutions = [one for one in predictions if isinstance(one, SolutionPrediction)]
    if solutions:
        strict = accuracy_score([one.strict for one in solutions])
        flexible = accuracy_score([one.flexible for one in solutions])
        score["strict"], score["stderr_strict"] = strict["accuracy"], strict["stderr"]
        score["flexible"], score["stderr_flexible"] = flexible["accuracy"], flexible["stderr"]
    normalised = [one.normalised_correct for one in predictions if isinstance(one, ChoicePrediction)]
    if style in LETTER_PROMPTS or not normalised:
        return score
    return {**accuracy_score(normalised), "accuracy_raw": score["accuracy"], "stderr_raw": score["stderr"]}


def average(scores: Mapping[str, Score]) -> float | None:
    """Mean accuracy over tasks, each counted once; None without a task."""
    accuracies: Iterable[float] = [score["accuracy"] for score in scores.values()]
    return sum(accuracies) / len(scores) if scores else None


def add_subjects(
    score: Score, ids: Sequence[str], items: Sequence[Item], score_items: Callable[[list[Item]], Score]
) -> Score:
    """Add `by_subject` and `by_category`, each over all of its questions.

    Args:
        ids: the questions' ids, which begin with the subject.
    """
    subjects: dict[str, list[Item]] = {}
    categories: dict[str, list[Item]] = {name: [] for name in CATEGORIES}
    for row_id, item in zip(ids, items, strict=True):
        subject = subject_of(row_id)
        subjects.setdefault(subject, []).append(item)
        categories[CATEGORY[subject]].append(item)
    return {
        **score,
        "by_subject": {name: score_items(subjects[name]) for name in sorted(subjects)},
        "by_category": {name: score_items(part) for name, part in categories.items() if part},
    }
