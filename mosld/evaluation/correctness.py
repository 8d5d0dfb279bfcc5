"""Which option a model chooses, and whether an answer is correct.

Of equally likely options the first is chosen, as in lm-evaluation-harness.
"""

import re
from collections.abc import Sequence

from mosld.data.numbers import value


def likeliest(scores: Sequence[float]) -> int:
    """Index of the option with the largest log-likelihood."""
    return max(range(len(scores)), key=scores.__getitem__)


def likeliest_per_character(scores: Sequence[float], choices: Sequence[str]) -> int:
    """Index of the option with the largest log-likelihood per character, which does not favour short options."""
    return likeliest([score / len(choice) for score, choice in zip(scores, choices, strict=True)])


def same_number(answer: str | None, expected: str) -> bool:
    """Whether the answer is a number with the value of the expected one, however each is written."""
    number = value(answer or "")
    return number is not None and number == value(expected)


def same_text(answer: str, expected: str) -> bool:
    """Whether two texts are equal apart from case, white space, and punctuation at either end."""
    return _normalised(answer) == _normalised(expected)


def _normalised(text: str) -> str:
    return re.sub(r"^\W+|\W+$", "", " ".join(text.casefold().split())) or text.strip()
