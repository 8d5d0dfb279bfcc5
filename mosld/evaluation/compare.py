"""Items that two evaluations of the same questions answer otherwise, each with how sure both were.

In float32 no item differs with batch size, padding or the number of processes; in bfloat16 some do whose best options
are nearly tied, which their margins show.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from mosld.data.rows import Row
from mosld.evaluation.evaluate import Evaluation, Questions
from mosld.evaluation.multiple_choice import Prediction


@dataclass(frozen=True, slots=True)
class Difference:
    """One item that is answered otherwise.

    Attributes:
        task, id: which item.
        prediction, other: the two answers: options by their index, or numbers as text.
        margin, other_margin: by how much each evaluation puts its own answer above the other's: nats, or nats per
            character where the options' text is compared so; None where answers were generated.
    """

    task: str
    id: str
    prediction: int | str | None
    other: int | str | None
    margin: float | None
    other_margin: float | None


def differences(questions: Questions, first: Evaluation, second: Evaluation) -> list[Difference]:
    """What differs, task after task, in the comparison that `accuracy` is about."""
    found = []
    for task, asked in questions.by_task.items():
        for question, one, two in zip(asked, first.predictions[task], second.predictions[task], strict=True):
            if isinstance(question.row, Row) and isinstance(one, Prediction) and isinstance(two, Prediction):
                letter = questions.style == "letter"
                a, b = (one.prediction, two.prediction) if letter else (one.normalised, two.normalised)
                sizes = [1] * len(question.row.choices) if letter else [len(choice) for choice in question.row.choices]
                margins = _margin(one.scores, sizes, a, b), _margin(two.scores, sizes, b, a)
                found += [Difference(task, one.id, a, b, *margins)] if a != b else []
            elif one.prediction != two.prediction:
                found.append(Difference(task, one.id, one.prediction, two.prediction, None, None))
    return found


def _margin(scores: Sequence[float], sizes: Sequence[int], chosen: int, other: int) -> float:
    return scores[chosen] / sizes[chosen] - scores[other] / sizes[other]


def differences_table(questions: Questions, found: Sequence[Difference]) -> Table:
    """Every item that differs, below how many of how many do."""
    total = sum(map(len, questions.by_task.values()))
    unit = "nats" if questions.style == "letter" else "nats per character"
    table = Table(title=f"{len(found)} of {total} items are answered otherwise (margins in {unit})")
    for column in ("task", "id", "answer", "margin", "other answer", "its margin"):
        table.add_column(column, justify="left" if column in ("task", "id") else "right", overflow="fold")
    for one in found:
        margins = ["" if value is None else f"{value:.2g}" for value in (one.margin, one.other_margin)]
        table.add_row(one.task, one.id, str(one.prediction), margins[0], str(one.other), margins[1])
    return table
