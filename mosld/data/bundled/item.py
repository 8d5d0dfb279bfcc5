"""One question before it becomes a row, and the step that turns a list of them into rows of a split."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

# PART: One question before it becomes a row, and the step that turns a list of them into rows of a split.


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


# PART: Choose answers and distractors so that no option text is right more often than chance. Without this a model
# could score well by knowing which options tend to be right, without the question.


class Balance:
    """Running counts of how often each text was the answer and how often a distractor."""

    def __init__(self, rng: Random) -> None:
        """Start with no counts; `rng` breaks ties."""
        self._rng = rng
        self._right: Counter[str] = Counter()
        self._wrong: Counter[str] = Counter()

    def answer(self, candidates: Sequence[str]) -> str:
        """The candidate that has been right least often (ties at random)."""
        return min(candidates, key=lambda text: (self._right[text], self._rng.random()))

    def distractors(self, answer: str, candidates: Sequence[str], count: int) -> tuple[str, ...]:
        """`count` wrong choices, those owed most: a text is due `count` showings for each time it was right.

        The noise below varies which texts meet; it is smaller than one full debt, so the balance stays.
        """
        self._right[answer] += 1
        owed = {text: count * self._right[text] - self._wrong[text] for text in dict.fromkeys(candidates)}
        ranked = sorted(owed, key=lambda text: owed[text] + count * self._rng.random(), reverse=True)
        chosen = tuple(ranked[:count])
        if len(chosen) < count:
            raise ValueError(f"{answer!r} has {len(chosen)} possible distractors, needs {count}: {list(owed)}")
        self._wrong.update(chosen)
        return chosen


# PART: Read the committed fact tables (facts/*.yaml).


FOLDER = Path(__file__).parent / "facts"


@cache
def load(name: str) -> Any:
    """The content of facts/<name>.yaml. Callers share one copy: they must not change it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), Loader=loader)
