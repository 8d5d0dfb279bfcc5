"""What an answer is, and when it is right. Of equally likely options it is the first, as in lm-evaluation-harness."""

import math
import re
from collections.abc import Sequence

from mosld.data.parsing import value


def likeliest(scores: Sequence[float]) -> int:
    """The index of the option with the largest log-likelihood."""
    return max(range(len(scores)), key=scores.__getitem__)


def likeliest_per_character(scores: Sequence[float], choices: Sequence[str]) -> int:
    """The same, of log-likelihoods divided by the length of each option's text: else short options win."""
    return likeliest([score / len(choice) for score, choice in zip(scores, choices, strict=True)])


def share_right(outcomes: Sequence[bool]) -> dict[str, float | int]:
    """{"accuracy", "stderr", "n"}: their mean, a share of 1; sqrt(p (1 - p) / (n - 1)); how many there are."""
    n, mean = len(outcomes), sum(outcomes) / len(outcomes)
    return {"accuracy": mean, "stderr": math.sqrt(mean * (1 - mean) / (n - 1)) if n > 1 else 0.0, "n": n}


def same_number(written: str | None, right: str) -> bool:
    """Whether a number as it was written has the value of the right one; None or no number: it has not."""
    found = value(written or "")
    return found is not None and found == value(right)


def same_text(written: str, right: str) -> bool:
    """Whether two texts say the same, case, white space and the punctuation at both ends aside."""
    return _plain(written) == _plain(right)


def _plain(text: str) -> str:
    return re.sub(r"^\W+|\W+$", "", " ".join(text.casefold().split())) or text.strip()
