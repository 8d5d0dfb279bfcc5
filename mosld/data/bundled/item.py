"""One question before it becomes a row, and the step that turns a list of them into rows of a split."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Item:
    """A multiple-choice question: its right answer and its wrong ones, not yet in an order."""

    kind: str
    """What sort of question it is, such as `animal_class/inverse`: for diagnosis, not part of the row."""
    question: str
    answer: str
    wrong: tuple[str, ...]
    context: str = ""

    @property
    def key(self) -> tuple[str, str, frozenset[str]]:
        """What makes two items the same question to a reader: the order of the choices does not."""
        return self.context, self.question, frozenset((self.answer, *self.wrong))


def capital(text: str) -> str:
    """The text with its first letter raised and the rest untouched (unlike str.capitalize)."""
    return text[:1].upper() + text[1:]


def positions(count: int, choices: int, rng: Random) -> list[int]:
    """Answer positions for `count` rows: every position equally often (to within one), in random order."""
    cycle = [index % choices for index in range(count)]
    rng.shuffle(cycle)
    return cycle


def to_rows(items: Sequence[Item], prefix: str, rng: Random) -> list[dict]:
    """Shuffle the items, place the answers evenly over the positions, and number the rows `prefix/0`, ..."""
    order = list(items)
    rng.shuffle(order)
    width = 1 + max((len(item.wrong) for item in order), default=0)
    rows = []
    for number, (item, place) in enumerate(zip(order, positions(len(order), width, rng), strict=True)):
        choices = list(item.wrong)
        rng.shuffle(choices)
        choices.insert(place, item.answer)
        rows.append(
            {
                "id": f"{prefix}/{number}",
                "context": item.context,
                "question": item.question,
                "choices": choices,
                "answer": place,
            }
        )
    return rows
