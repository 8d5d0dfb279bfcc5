"""The numbers in worked solutions: the one that a text ends in, and its value."""

import re
from fractions import Fraction

# The keyboard's minus and the typographer's.
MINUS_SIGNS = "-\u2212"
# Python refuses to convert thousands of digits.
MAX_NUMBER_CHARACTERS = 100
_NUMBER = (
    # A minus after a digit, a word or a bracket is a subtraction or a hyphen.
    rf"(?:(?<![\w.)])[{MINUS_SIGNS}])?"
    r"[$€£]?"
    rf"(?:(?<=[$€£])[{MINUS_SIGNS}])?"
    r"(?:(?:\d+ )?\d+/0*[1-9]\d*(?!\d|\.\d)"  # 3/4, 2 1/2
    r"|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"  # 1,234.50
    r"|(?<!\d)\.\d+)"  # .5
)
NUMBER = re.compile(_NUMBER)
# The line of a worked solution that gives its final number, as in `#### 72`.
FINAL = re.compile(rf"####[^\n]*?({_NUMBER})")


def value(text: str) -> Fraction | None:
    """The value of a text that is one number, without its currency or percent sign; None if it is not a number.

    Spelling does not matter: 1,200 is 1200.0.
    """
    text = text.strip().removesuffix("%").rstrip()
    if len(text) > MAX_NUMBER_CHARACTERS or not NUMBER.fullmatch(text):
        return None
    plain = re.sub("[$€£,]", "", text).replace(MINUS_SIGNS[1], MINUS_SIGNS[0])
    # In 2 1/2 the sign belongs to both parts.
    whole, _, part = plain.rpartition(" ")
    return Fraction(whole or "0") + Fraction(f"-{part}" if whole.startswith("-") else part)


def final_number(text: str) -> str | None:
    """The number that a worked solution ends in, as it is written: the one after ``####``, else the last one."""
    marked = FINAL.search(text)
    if marked:
        return marked[1]
    numbers = NUMBER.findall(text)
    return numbers[-1] if numbers else None
