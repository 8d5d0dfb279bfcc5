"""The choices of a question in every form that people keep them in, and which of them an answer names.

A list | {"A": "red", "B": "blue"} | [{"label": "A", "text": "red"}] | {"label": [...], "text": [...]} | any of these as
JSON or as Python writes it, in a cell of a table | one column for each choice.
"""

import ast
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from fractions import Fraction
from string import ascii_uppercase

import numpy

from mosld.data.reading.bad_rows import RowError, quoted
from mosld.data.reading.values import is_missing, text_of, whole_number

# How an answer names a choice: by its label, its text, its letter, its index from 0 or its number from 1.
ANSWER_FORMS = ("label", "text", "letter", "index", "number")
# Longer cells are not parsed.
MAX_CELL = 1_000_000
_WITHOUT_COMMA = re.compile(r"""['"]\s+['"]""")
# "Option B", "choice_2", for "B" and "2"
_NAMED = re.compile(r"(option|choice|answer)[ _-]*", re.IGNORECASE)
# "B. blue", "(B) blue"
_LETTER_AND_TEXT = re.compile(r"\(?([A-Za-z])[.):]\s*(\S.*)", re.DOTALL)
# The keys of a choice that is an object.
_LABELS = ("label", "key", "letter", "name", "id", "index", "number")
_TEXTS = ("text", "value", "option", "choice", "content")
_TRUTH = {"true": ("true", "yes"), "false": ("false", "no")}


def read_choices(value: object) -> tuple[object, list[str]]:
    """The texts of the choices, and their labels where they have any; what is no list is returned for the checks.

    Raises:
        RowError: a cell holds no list.
    """
    if isinstance(value, str):
        value = _parse_choices(value)
    labels: list[str] = []
    if isinstance(value, dict) and isinstance(value.get("text"), list | tuple):
        labels = [str(label) for label in value.get("label") or []]
        value = list(value["text"])
    elif isinstance(value, dict) and value:
        present = {label: text for label, text in value.items() if not is_missing(text)}
        labels, value = list(map(str, present)), list(present.values())
    elif isinstance(value, list | tuple) and all(isinstance(choice, dict) for choice in value):
        keys = set.intersection(*map(set, value)) if value else set()
        label, text = (next((name for name in names if name in keys), None) for names in (_LABELS, _TEXTS))
        # Of a label and a value, either may be the text.
        if text and (label, text) != ("label", "value"):
            labels = [str(choice[label]) for choice in value] if label else []
            value = [choice[text] for choice in value]
    if not isinstance(value, list | tuple):
        return value, []
    texts = [text_of(choice) for choice in value]
    if not labels:
        prefixes = [_LETTER_AND_TEXT.fullmatch(text) for text in texts if isinstance(text, str) and text]
        letters = [prefix[1].upper() for prefix in prefixes if prefix]
        labels = letters if len(set(letters)) == len(prefixes) else []
    # A row with fewer choices leaves its last ones empty.
    while texts and texts[-1] == "":
        texts.pop()
    return texts, labels[: len(texts)] if len(labels) >= len(texts) and any(labels) else []


def named_answer(answer: object) -> object:
    """The answer in a list of one, or where a list marks the right choice with a 1, its index from 0."""
    if isinstance(answer, list) and len(answer) == 1:
        return answer[0]
    if isinstance(answer, list) and sum(mark == 1 for mark in answer) == 1 and all(mark in (0, 1) for mark in answer):
        return answer.index(1)
    return answer


def parse_cell(cell: str) -> object:
    """The list or object that a cell holds, as JSON or as Python writes it; None where it holds neither."""
    # Python joins texts without a comma between them: ['a' 'b'] is ['ab'].
    parsers = (json.loads,) if _WITHOUT_COMMA.search(cell) else (json.loads, ast.literal_eval)
    for parse in parsers if len(cell) <= MAX_CELL else ():
        try:
            value = parse(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list | tuple | dict):
            return value
    return None


def _parse_choices(cell: str) -> object:
    value = parse_cell(cell)
    if value is not None:
        return value
    commas = " (it has no commas, as numpy writes lists)" if _WITHOUT_COMMA.search(cell) else ""
    raise RowError(
        f'\'choices\' is not a list{commas}, is {quoted(cell)}; write a JSON list such as ["a", "b"], or name a column '
        "for each choice, as in data.columns={choices: [a, b, c]}",
        "'choices' is not a list",
    )


def choice_index(answer: object, choices: Sequence[str], labels: Sequence[str], form: str) -> int:
    """The index of the choice that an answer names in this form; -1 if it names none."""
    index: int | None = None
    if isinstance(answer, str) and form != "text":
        answer = _NAMED.sub("", answer.strip(), count=1) or answer
    if form == "text":
        index = _index_of_text(answer, choices)
    elif form == "label":
        named = str(answer).strip()
        number = None if isinstance(answer, bool) else whole_number(answer)
        index = next((i for i, label in enumerate(labels) if label.strip() in (named, str(number))), None)
        if index is None:
            index = next((i for i, label in enumerate(labels) if _folded(label) == _folded(named)), None)
    elif form == "letter":
        letter = _letter(answer, choices).upper() if isinstance(answer, str) else ""
        index = ascii_uppercase.find(letter) if len(letter) == 1 else None
    # A truth value is an index only where no choice says yes or true.
    elif not isinstance(answer, bool) or (form == "index" and _index_of_text(answer, choices) is None):
        number = whole_number(answer)
        index = number - 1 if number is not None and form == "number" else number
    return index if index is not None and 0 <= index < len(choices) else -1


def _letter(answer: str, choices: Sequence[str]) -> str:
    """The letter that an answer consists of, or that stands before the text of its choice."""
    both = _LETTER_AND_TEXT.fullmatch(answer.strip())
    if both:
        index = ascii_uppercase.index(both[1].upper())
        return both[1] if index < len(choices) and _folded(choices[index]) == _folded(both[2]) else ""
    return answer.strip().strip("().: ")


def _folded(text: str) -> str:
    """A text without differences of case, white space and the spelling of accents."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _index_of_text(answer: object, choices: Sequence[str]) -> int | None:
    exact = [choice.strip() for choice in choices]
    text = str(answer) if isinstance(answer, bool) else text_of(answer)
    if not isinstance(text, str):
        return None
    if text.strip() in exact:
        return exact.index(text.strip())
    wanted, folded = _folded(text), list(map(_folded, exact))
    if wanted in folded:
        return folded.index(wanted)
    if wanted in _TRUTH:
        return next((folded.index(word) for word in _TRUTH[wanted] if word in folded), None)
    number = _number(text)
    if number is None:
        return None
    return next((i for i, choice in enumerate(exact) if _number(choice) == number), None)


def _number(text: str) -> Fraction | None:
    text = text.strip()
    return Fraction(text) if len(text) < 20 and re.fullmatch(r"-?\d+(\.\d+)?", text, re.ASCII) else None


class AmbiguousAnswersError(ValueError):
    """The answers of a task can be read in two forms that name different choices.

    Attributes:
        forms: the two forms.
        row: the first row where they differ.
    """

    def __init__(self, forms: tuple[str, str], row: int) -> None:
        super().__init__(f"{forms[0]} or {forms[1]}")
        self.forms = forms
        self.row = row


def answer_form(indices: Mapping[str, numpy.ndarray]) -> str:
    """The form of a task's answers: the one in which all of them name a choice, or else most of them.

    Args:
        indices: by form, the index that each row's answer has in it [rows], -1 for none.

    Raises:
        AmbiguousAnswersError: two forms fit equally well and name different choices.
    """
    matches = {form: int((rows >= 0).sum()) for form, rows in indices.items()}
    count = len(next(iter(indices.values())))
    most = max(matches.values())
    if not most:
        return "text"
    best = next(form for form in ANSWER_FORMS if matches[form] == most)
    for form in ANSWER_FORMS:
        # Labels that fit all answers are meant, whatever letters or numbers they look like.
        if form == best or (best == "label" and form != "text"):
            continue
        # Texts that half of the answers name may be what is meant, whatever else fits the others as well.
        text = most < count and form in ("label", "text")
        if matches[form] < (count / 2 if text else most):
            continue
        differing = numpy.flatnonzero((indices[form] != indices[best]) & (indices[form] >= 0) & (indices[best] >= 0))
        if len(differing):
            raise AmbiguousAnswersError((best, form), int(differing[0]))
    return best
