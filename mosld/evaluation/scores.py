"""The numbers of results.json: the metrics of each task, and their average over tasks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.evaluation.generation import FinalNumber, Written
from mosld.evaluation.multiple_choice import Prediction

if TYPE_CHECKING:
    from mosld.evaluation.metrics import ShareRight

Outcome = Prediction | FinalNumber | Written
Score = dict[str, Any]


def task_score(rows: Sequence[AnyRow], outcomes: Sequence[Outcome], style: str) -> Score:
    """The numbers of one task: `accuracy` and its standard error `stderr`, as shares of 1, over `n` items.

    `accuracy` compares options by likelihood where letters are answered, and by likelihood per character where the
    answer is the option's text (else short options win); there the raw comparison is `accuracy_raw`. Of worked
    solutions it is the share whose final number is right, of replies the share that equal the response, whatever the
    style.
    """
    from mosld.evaluation.metrics import ChoiceAccuracy, FinalNumberMatch, NormalisedChoiceAccuracy, ReplyMatch

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
