"""A multiple-choice question, the balance of its choices, the order of rows, and the tables of facts/."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from mosld.common.files import JsonObject

FACTS = Path(__file__).parent / "facts"


@dataclass(frozen=True)
class Item:
    """A multiple-choice question with its choices not yet in an order.

    Attributes:
        kind: the sort of question, such as `animal_class/inverse`; it is not part of the row.
        question: its text.
        answer: the right choice.
        wrong: the wrong choices.
        context: a passage, or "".
    """

    kind: str
    question: str
    answer: str
    wrong: tuple[str, ...]
    context: str = ""

    @property
    def key(self) -> tuple[str, str, frozenset[str]]:
        """Equal for items that differ only in the order of their choices."""
        return self.context, self.question, frozenset((self.answer, *self.wrong))


def distinct(items: Iterable[Item], count: int) -> list[Item]:
    """The first `count` different items, or fewer if there are none in 20 times as many tries."""
    seen: dict[tuple[str, str, frozenset[str]], Item] = {}
    for attempt, item in enumerate(items):
        if len(seen) >= count or attempt > 20 * count:
            break
        seen.setdefault(item.key, item)
    return list(seen.values())


def capital(text: str) -> str:
    """The text with a capital first letter; unlike str.capitalize, the rest stays."""
    return text[:1].upper() + text[1:]


def to_rows(items: Sequence[Item], prefix: str, rng: Random) -> list[JsonObject]:
    """Shuffle the items, place the answers evenly over the positions, and number the rows `prefix/0`, ..."""
    order = list(items)
    rng.shuffle(order)
    width = 1 + max((len(item.wrong) for item in order), default=0)
    positions = [index % width for index in range(len(order))]
    rng.shuffle(positions)
    rows = []
    for number, (item, position) in enumerate(zip(order, positions, strict=True)):
        choices = list(item.wrong)
        rng.shuffle(choices)
        choices.insert(position, item.answer)
        texts = {"context": item.context, "question": item.question}
        rows.append({"id": f"{prefix}/{number}", **texts, "choices": choices, "answer": position})
    return rows


class Balance:
    """Chooses answers and distractors so that no text is the right choice more often than chance.

    Without it a model could score well by knowing which choices tend to be right, without reading the question.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._right: Counter[str] = Counter()
        self._wrong: Counter[str] = Counter()

    def answer(self, candidates: Sequence[str]) -> str:
        """The candidate that was right least often (ties at random)."""
        return min(candidates, key=lambda text: (self._right[text], self._rng.random()))

    def distractors(self, answer: str, candidates: Sequence[str], count: int) -> tuple[str, ...]:
        """Choose `count` wrong choices; a text is due `count` times for each time it was right.

        Noise of less than `count` varies which texts appear together without upsetting the balance.
        """
        self._right[answer] += 1
        due = {text: count * self._right[text] - self._wrong[text] for text in dict.fromkeys(candidates)}
        ranked = sorted(due, key=lambda text: due[text] + count * self._rng.random(), reverse=True)
        chosen = tuple(ranked[:count])
        if len(chosen) < count:
            raise ValueError(f"{answer!r} has {len(chosen)} possible distractors, needs {count}: {list(due)}")
        self._wrong.update(chosen)
        return chosen


@cache
def load(name: str) -> Any:
    """The content of facts/<name>.yaml. Callers share one copy and must not change it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((FACTS / f"{name}.yaml").read_text(encoding="utf-8"), Loader=loader)
