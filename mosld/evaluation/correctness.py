"""Which option a model chooses, and whether an answer is correct.

Of equally likely options the first is chosen, as in lm-evaluation-harness.
"""

import unicodedata
from collections.abc import Sequence

import regex

from mosld.data.numbers import value

# The filters strict-match and flexible-extract of lm-evaluation-harness for gsm8k, and what its exact_match ignores.
STRICT = regex.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = regex.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
IGNORED = regex.compile(r"[,$]|\.(?=[,$]*$)")

_SENTENCE_MARKS = regex.compile(r"^[\s¿¡]+|[\s\p{Terminal_Punctuation}…‥]+$")
_QUOTED = regex.compile(r"\p{Quotation_Mark}+(.*?)\p{Quotation_Mark}+")
_BRACKETED = regex.compile(r"\p{Open_Punctuation}(.*)\p{Close_Punctuation}")


def likeliest(scores: Sequence[float]) -> int:
    """Index of the option with the largest log-likelihood."""
    return max(range(len(scores)), key=scores.__getitem__)


def likeliest_per_character(scores: Sequence[float], choices: Sequence[str]) -> int:
    """Index of the option with the largest log-likelihood per character, which does not favour short options."""
    return likeliest([score / len(choice) for score, choice in zip(scores, choices, strict=True)])


def same_number(answer: str | None, expected: str) -> bool:
    """Whether the answer is a number with the value of the expected one, however each is written.

    72% is 72, and it is 0.72, too, unless both have a percent sign.
    """
    answer = answer or ""
    number, right = value(answer), value(expected)
    if number is None or right is None or number == right:
        return number is not None and number == right
    signs = [text.rstrip(" $").endswith("%") for text in (answer, expected)]
    return signs[0] != signs[1] and (number / 100 == right if signs[0] else number == right / 100)


def strict_match(text: str, expected: str) -> bool:
    """Whether the first number after `####` is spelt like the expected one, as lm-evaluation-harness scores gsm8k."""
    return _exact_match(STRICT.findall(text)[:1], expected)


def flexible_match(text: str, expected: str) -> bool:
    """Whether the last number of a text is spelt like the expected one, as lm-evaluation-harness scores gsm8k."""
    return _exact_match(FLEXIBLE.findall(text)[-1:], expected)


def _exact_match(numbers: Sequence[str], expected: str) -> bool:
    return [IGNORED.sub("", number) for number in numbers] == [IGNORED.sub("", expected)]


def same_text(answer: str, expected: str) -> bool:
    """Whether two texts are equal apart from case, white space, quotation marks around them and the end of a sentence.

    Spellings that Unicode regards as one (NFC and NFD) are equal. So are texts of which one stands in brackets.
    """
    answer, expected = _folded(answer), _folded(expected)
    return answer == expected or _without_brackets(answer) == expected or answer == _without_brackets(expected)


def _folded(text: str) -> str:
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    text = " ".join(text.split())
    # A sentence in quotation marks, or quotation marks and then the end of a sentence.
    while bare := _without_marks(text):
        if bare == text:
            break
        text = bare
    return text


def _without_marks(text: str) -> str:
    """The text without quotation marks around it, else without the end of its sentence; "" if nothing is left."""
    quoted = _QUOTED.fullmatch(text)
    return quoted[1].strip() if quoted else _SENTENCE_MARKS.sub("", text)


def _without_brackets(text: str) -> str:
    match = _BRACKETED.fullmatch(text)
    return _folded(match[1]) if match else text
