"""The numbers of results.json: the metrics of each task, and their average over tasks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import datasets
import evaluate

from mosld.common.files import cache_directory
from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.data.subjects import CATEGORIES, CATEGORY, subject_of
from mosld.evaluation.correctness import likeliest, likeliest_per_character, same_number, same_text, share_right
from mosld.evaluation.generation import NumberPrediction, ReplyPrediction
from mosld.evaluation.multiple_choice import Prediction

# PART: The metrics of results.json as `evaluate.Metric`s that are made here: `evaluate.load` would fetch a script.
# The library takes seconds to import: the stages import this module when there is something to score.


OPTIONS = datasets.Features(
    {
        "predictions": datasets.List(datasets.Value("float64")),
        "references": {"answer": datasets.Value("int64"), "choices": datasets.List(datasets.Value("string"))},
    }
)
TEXTS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})


class ShareRight(evaluate.Metric):
    """The share of items that are right, with its standard error; the kinds of items are its subclasses.

    ``compute(predictions=..., references=...)`` gives {"accuracy", "stderr", "n"}: the mean of the outcomes, a share of
    1; sqrt(p (1 - p) / (n - 1)), the error that lm-evaluation-harness prints; the number of items.
    """

    described = "The share of items that are right."
    item_features = OPTIONS

    def __init__(self, **options: Any) -> None:
        """Keep the items in memory, and the folder that the library makes in any case in the project's cache."""
        super().__init__(**{"keep_in_memory": True, "cache_dir": str(cache_directory() / "metrics"), **options})

    @staticmethod
    def right(prediction: Any, reference: Any) -> bool:
        """Whether one item is right."""
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.described,
            citation="",
            inputs_description=self.right.__doc__ or "",
            features=self.item_features,
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float | int]:
        return share_right([self.right(*item) for item in zip(predictions, references, strict=True)])


class ChoiceAccuracy(ShareRight):
    """Multiple choice by likelihood: the option that is likeliest as a whole (`acc` of lm-evaluation-harness)."""

    described = "The share of questions whose right option is the likeliest."

    @staticmethod
    def right(prediction: Sequence[float], reference: dict[str, Any]) -> bool:
        """prediction: log-likelihood of each option; reference: {"answer": index, "choices": their texts}."""
        return likeliest(prediction) == reference["answer"]


class NormalisedChoiceAccuracy(ShareRight):
    """Multiple choice by likelihood per character of the option (`acc_norm` of lm-evaluation-harness)."""

    described = "The share of questions whose right option is the likeliest per character of its text."

    @staticmethod
    def right(prediction: Sequence[float], reference: dict[str, Any]) -> bool:
        """prediction: log-likelihood of each option; reference: {"answer": index, "choices": their texts}."""
        return likeliest_per_character(prediction, reference["choices"]) == reference["answer"]


class FinalNumberMatch(ShareRight):
    """Worked solutions: the final number has the value that it should have, however it is written."""

    described = "The share of solutions whose final number has the right value."
    item_features = TEXTS

    @staticmethod
    def right(prediction: str | None, reference: str) -> bool:
        """prediction: the number as the model wrote it, "" or None where it wrote none; reference: the right one."""
        return same_number(prediction, reference)


class ReplyMatch(ShareRight):
    """Replies in free words: what the model wrote says what the response does."""

    described = "The share of replies that equal the response, case, white space and outer punctuation aside."
    item_features = TEXTS

    @staticmethod
    def right(prediction: str, reference: str) -> bool:
        """prediction: what the model wrote; reference: the response."""
        return same_text(prediction, reference)


# PART: The numbers of results.json: the metrics of each task, and their average over tasks.


if TYPE_CHECKING:
    pass  # import of itself

Outcome = Prediction | NumberPrediction | ReplyPrediction
Score = dict[str, Any]


def task_score(rows: Sequence[AnyRow], outcomes: Sequence[Outcome], style: str) -> Score:
    """The numbers of one task: `accuracy` and its standard error `stderr`, as shares of 1, over `n` items.

    `accuracy` compares options by likelihood where letters are answered, and by likelihood per character where the
    answer is the option's text (else short options win); there the raw comparison is `accuracy_raw`. Of worked
    solutions it is the share whose final number is right, of replies the share that equal the response, whatever the
    style.
    """
    # import of itself

    if isinstance(rows[0], Solution):
        return _computed(FinalNumberMatch(), rows, outcomes)
    if isinstance(rows[0], Reply):
        return _computed(ReplyMatch(), rows, outcomes)
    raw = _computed(ChoiceAccuracy(), rows, outcomes)
    if style == "letter":
        return raw
    score = _computed(NormalisedChoiceAccuracy(), rows, outcomes)
    return {**score, "accuracy_raw": raw["accuracy"], "stderr_raw": raw["stderr"]}


def average(scores: Mapping[str, Score]) -> float:
    """Mean accuracy over tasks, each task counting once."""
    values: Iterable[float] = [score["accuracy"] for score in scores.values()]
    return sum(values) / len(scores)


def _computed(metric: "ShareRight", rows: Sequence[AnyRow], outcomes: Sequence[Outcome]) -> Score:
    found = metric.compute(
        predictions=[_said(outcome) for outcome in outcomes], references=[_reference(row) for row in rows]
    )
    assert found is not None  # only a process that does not gather gets None
    return found


def _said(outcome: Outcome) -> list[float] | str:
    return outcome.scores if isinstance(outcome, Prediction) else outcome.prediction or ""


def _reference(row: AnyRow) -> dict[str, object] | str:
    if isinstance(row, Row):
        return {"answer": row.answer, "choices": list(row.choices)}
    return row.final if isinstance(row, Solution) else row.response


# PART: Scores of a benchmark told apart by the subjects of its questions, and by the categories of its subjects.


Places = dict[str, list[int]]  # by name, which of the questions


def by_subject(ids: Sequence[str], score: Callable[[list[int]], Score]) -> dict[str, dict[str, Score]]:
    """{"by_subject": {subject: score}, "by_category": {category: score}}, each over all of its questions.

    Args:
        ids: of the questions; each begins with its subject.
        score: from the places of some of them to their score.
    """
    subjects, categories = Places(), Places({name: [] for name in CATEGORIES})
    for place, name in enumerate(ids):
        subject = subject_of(name)
        subjects.setdefault(subject, []).append(place)
        categories[CATEGORY[subject]].append(place)

    def scores(places: Places) -> dict[str, Score]:
        """The score of each part."""
        return {name: score(found) for name, found in places.items() if found}

    return {"by_subject": scores(dict(sorted(subjects.items()))), "by_category": scores(categories)}
