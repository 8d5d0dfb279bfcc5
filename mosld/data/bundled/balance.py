"""Choose answers and distractors so that no option text is right more often than chance.

Without this a model could score well by knowing which options tend to be right, without the question.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random


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
