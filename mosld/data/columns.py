"""From the user's columns to a record of the project's form."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from mosld.common.errors import nearest

# PART: From the user's columns to a record of the project's form.


NEEDED = {
    "choice": ("question", "choices", "answer"),
    "solution": ("question", "answer", "final"),
    "reply": ("question", "response"),
}
OPTIONAL = {"choice": ("id", "context"), "solution": ("id", "context"), "reply": ("id", "context", "system")}


@dataclass(frozen=True)
class ColumnMap:
    """The columns of one task, by the project's names.

    Attributes:
        task: its name, for messages.
        given: what `data.columns` says; a column that is not named there has the project's own name.
        kind: of the rows: choice, solution or reply.
    """

    task: str
    given: Mapping[str, Any]
    kind: str

    def column(self, ours: str) -> Any:
        """The user's column (for choices: or columns) that holds what the project calls `ours`."""
        theirs = self.given.get(ours, ours)
        return [str(name) for name in theirs] if isinstance(theirs, list) else str(theirs)

    def missing(self, columns: Collection[str]) -> list[str]:
        """A message for each column that is needed or named and is not there."""
        wanted = [*NEEDED[self.kind], *(ours for ours in OPTIONAL[self.kind] if ours in self.given)]
        found = []
        for ours in wanted:
            theirs = self.column(ours)
            for name in theirs if isinstance(theirs, list) else [theirs]:
                if name not in columns:
                    how = "" if ours in self.given else f"; name yours with data.columns={{{ours}: ...}}"
                    free = " (or response: ..., an answer in free words)" if how and ours == "choices" else ""
                    found.append(f"has no column '{name}'{how}{free}; {nearest(name, columns)}")
        return found

    def record(self, raw: Any, name: str) -> Any:
        """The record that a row of the file is; `name` is its id where it has none.

        Its answer is as it stands in the file; `labels` are those of its choices, where they have any.
        """
        if not isinstance(raw, dict):
            return raw
        texts = [ours for ours in (*NEEDED[self.kind], *OPTIONAL[self.kind]) if ours not in ("choices", "answer")]
        record = {ours: _text(raw.get(self.column(ours), "")) for ours in texts}
        record["id"] = record["id"] or name
        if self.kind == "choice":
            record["choices"], record["labels"] = self._choices(raw)
            record["answer"] = _given(raw.get(self.column("answer")))
        elif self.kind == "solution":
            record["answer"] = _text(raw.get(self.column("answer"), ""))
        return record

    def told(self, reason: str) -> str:
        """A reason in the words of the user's file: its own names of columns."""
        for ours in (*NEEDED[self.kind], *OPTIONAL[self.kind]):
            theirs = self.column(ours)
            if isinstance(theirs, str) and theirs != ours:
                reason = reason.replace(f"'{ours}'", f"'{theirs}'")
        return reason

    def _choices(self, raw: dict[str, Any]) -> tuple[list[Any], list[str]]:
        """The choices of a row, and their labels where it has any."""
        column = self.column("choices")
        if isinstance(column, list):
            found = [_text(raw.get(name, "")) for name in column]
            while found and found[-1] == "":  # a row with fewer choices leaves the last columns empty
                found.pop()
            return found, []
        value = raw.get(column)
        if isinstance(value, str):
            value = _json(value, column)
        if isinstance(value, dict) and isinstance(value.get("text"), list):
            return [_text(text) for text in value["text"]], [str(label) for label in value.get("label") or []]
        return [_text(text) for text in value] if isinstance(value, list) else value, []  # type: ignore[return-value]


def kind_of(given: Mapping[str, Any], columns: Collection[str]) -> str:
    """The kind of rows that a map and the columns of a file make: what the map names decides, then what is there."""
    for named in (set(given), set(columns)):
        for ours, kind in (("choices", "choice"), ("final", "solution"), ("response", "reply")):
            if ours in named:
                return kind
    return "choice"


def _given(value: Any) -> Any:
    """The value, or None where nothing is given: an empty field, or the NaN that tables put there."""
    nothing = (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and math.isnan(value))
    return None if nothing else value


def _text(value: Any) -> Any:
    """Numbers as text, and nothing as no text; what else is no text is reported by the reader of the record."""
    if _given(value) is None:
        return ""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _json(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        several = "name a column for each choice, as in data.columns={choices: [a, b, c]}"
        raise ValueError(f'\'{column}\' is no list (a JSON list such as ["a", "b"]), or {several}') from error


# PART: How an answer names the right choice: its index from 0, its number from 1, its letter, or its text.


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


def explain_answer(answer: Any, choices: Sequence[str], form: str) -> str:
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
