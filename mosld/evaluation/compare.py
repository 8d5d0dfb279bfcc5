"""Compare two evaluations of the same questions: list the items that they answer differently.

In float32 the batch size, padding and number of processes change no item. In bfloat16 they change items whose best
options are nearly tied, which their margins show.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from mosld.config.schema import LETTER_PROMPTS
from mosld.data.rows import Row
from mosld.data.tokens.prompts import Encoded
from mosld.evaluation.evaluate import Evaluation, Questions
from mosld.evaluation.multiple_choice import ChoicePrediction


@dataclass(frozen=True, slots=True)
class Difference:
    """One item with different answers.

    Attributes:
        prediction: the first answer: the index of an option, or generated text.
        margin: how far the first evaluation puts its own answer above the other: nats, or nats per character where
            the options' text is compared so; None where answers are generated.
    """

    task: str
    id: str
    prediction: int | str | None
    other: int | str | None
    margin: float | None
    other_margin: float | None


def differences(questions: Questions, first: Evaluation, second: Evaluation) -> list[Difference]:
    """The items with different answers, task after task, in the comparison that `accuracy` uses."""
    letter = questions.style in LETTER_PROMPTS
    listed = []
    for task, asked in questions.by_task.items():
        for question, one, two in zip(asked, first.predictions[task], second.predictions[task], strict=True):
            if not isinstance(one, ChoicePrediction) or not isinstance(two, ChoicePrediction):
                if one.prediction != two.prediction:
                    listed.append(Difference(task, one.id, one.prediction, two.prediction, None, None))
                continue
            a, b = (one.prediction, two.prediction) if letter else (one.normalised, two.normalised)
            if a != b:
                margin = _margin(question, one.scores, a, b, letter)
                other_margin = _margin(question, two.scores, b, a, letter)
                listed.append(Difference(task, one.id, a, b, margin, other_margin))
    return listed


def _margin(question: Encoded, scores: Sequence[float], chosen: int, other: int, letter: bool) -> float:
    assert isinstance(question.row, Row)
    choices = question.row.choices
    lengths = [1] * len(choices) if letter else [len(choice) for choice in choices]
    return scores[chosen] / lengths[chosen] - scores[other] / lengths[other]


def differences_table(questions: Questions, listed: Sequence[Difference]) -> Table:
    """All differences, under a title with their number."""
    total = sum(map(len, questions.by_task.values()))
    unit = "nats" if questions.style in LETTER_PROMPTS else "nats per character"
    table = Table(title=f"{len(listed)} of {total} items are answered differently (margins in {unit})")
    for column in ("task", "id", "answer", "margin", "other answer", "its margin"):
        table.add_column(column, justify="left" if column in ("task", "id") else "right", overflow="fold")
    for one in listed:
        margins = ["" if value is None else f"{value:.2g}" for value in (one.margin, one.other_margin)]
        table.add_row(one.task, one.id, str(one.prediction), margins[0], str(one.other), margins[1])
    return table
