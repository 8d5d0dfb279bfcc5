"""Numbers in text: where one stands, and what it is worth. Only the value counts: 1,200 is 1200.0."""

import re
from fractions import Fraction

MINUS = "-\u2212"  # the keyboard's and the typographer's
LONGEST = 100  # characters; Python refuses to convert thousands of digits
_NUMBER = (
    rf"(?:(?<![\w.)])[{MINUS}])?"  # after a digit, a word or a bracket it is a subtraction, or a hyphen
    r"[$€£]?"
    rf"(?:(?<=[$€£])[{MINUS}])?"
    r"(?:(?:\d+ )?\d+/0*[1-9]\d*(?!\d|\.\d)"  # 3/4, 2 1/2
    r"|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"  # 1,234.50
    r"|(?<!\d)\.\d+)"  # .5
)
NUMBER = re.compile(_NUMBER)
FINAL = re.compile(rf"####[^\n]*?({_NUMBER})")
"""The line of a worked solution that gives its final number, as in ``#### 72``."""


def value(text: str) -> Fraction | None:
    """What a text that is one number is worth, its currency or per cent sign left out; None if it is no number."""
    text = text.strip().removesuffix("%").rstrip()
    if len(text) > LONGEST or not NUMBER.fullmatch(text):
        return None
    plain = re.sub("[$€£,]", "", text).replace(MINUS[1], MINUS[0])
    whole, _, part = plain.rpartition(" ")  # 2 1/2: the sign is that of both
    return Fraction(whole or "0") + Fraction(f"-{part}" if whole.startswith("-") else part)


def final_number(text: str) -> str | None:
    """The number that a worked solution ends in, as it stands there: the one after ``####``, else the last one."""
    marked = FINAL.search(text)
    if marked:
        return marked[1]
    found = NUMBER.findall(text)
    return found[-1] if found else None
