"""How an answer names the right choice: its index from 0, its number from 1, its letter, or its text."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

FORMS = ("text", "letter", "index", "number")


class UnclearError(ValueError):
    """Answers can be read in two ways that differ."""


def answer_form(rows: Sequence[tuple[Any, Sequence[str]]]) -> str:
    """The form in which the answers of a task are written: the one that fits most of its rows.

    Args:
        rows: answer and choices of each row; an answer that is missing (None) says nothing.

    Raises:
        UnclearError: two forms fit equally well and name different choices.
    """
    given = [(answer, choices) for answer, choices in rows if answer is not None]
    places = {form: [place(answer, choices, form) for answer, choices in given] for form in FORMS}
    fitting = {form: sum(found is not None for found in places[form]) for form in FORMS}
    most = max(fitting.values())
    best = [form for form in FORMS if fitting[form] == most]
    differing = [form for form in best if places[form] != places[best[0]]]
    if differing and most:
        raise UnclearError(f"{best[0]} or {differing[0]}")
    return best[0]


def place(answer: Any, choices: Sequence[str], form: str) -> int | None:
    """The index of the choice that an answer names in this form; None: it names none."""
    if form == "text":
        return _by_text(answer, choices)
    if form == "letter":
        letter = answer.strip().strip("().:").upper() if isinstance(answer, str) else ""
        found = ascii_uppercase.find(letter) if len(letter) == 1 else -1
    else:
        number = _whole(answer)
        found = -1 if number is None else number - (form == "number")
    return found if 0 <= found < len(choices) else None


def no_place(answer: Any, choices: Sequence[str], form: str) -> str:
    """Why an answer names no choice."""
    last = len(choices) - 1
    return {
        "text": "is none of the choices",
        "letter": f"must be a letter, A..{ascii_uppercase[min(last, 25)]}",
        "index": f"must be an index, 0..{last}",
        "number": f"must be a number, 1..{last + 1}",
    }[form]


def _by_text(answer: Any, choices: Sequence[str]) -> int | None:
    if not isinstance(answer, str):
        return None
    for wanted, listed in ((answer, choices), (answer.lower(), [choice.lower() for choice in choices])):
        stripped = [choice.strip() for choice in listed]
        if wanted.strip() in stripped:
            return stripped.index(wanted.strip())
    return None


def _whole(answer: Any) -> int | None:
    if isinstance(answer, bool):
        return None
    if isinstance(answer, str):
        text = answer.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else None
    return int(answer) if isinstance(answer, int) or (isinstance(answer, float) and answer.is_integer()) else None
