"""From the user's columns to a record of the project's form, and how the answers of a task name the right choice."""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from mosld.common.errors import nearest
from mosld.common.files import JsonObject

REQUIRED = {
    "choice": ("question", "choices", "answer"),
    "solution": ("question", "answer", "final"),
    "reply": ("question", "response"),
}
OPTIONAL = {"choice": ("id", "context"), "solution": ("id", "context"), "reply": ("id", "context", "system")}
# How an answer names a choice: by its text, its letter, its index from 0 or its number from 1.
ANSWER_FORMS = ("text", "letter", "index", "number")


@dataclass(frozen=True)
class ColumnMap:
    """The user's columns by the project's names of fields.

    Attributes:
        columns: what `data.columns` says; a field that is not in it has a column of its own name.
        kind: of the rows: choice, solution or reply.
    """

    columns: Mapping[str, object]
    kind: str

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that a row of this kind can have."""
        return (*REQUIRED[self.kind], *OPTIONAL[self.kind])

    def names(self, field: str) -> list[str]:
        """The user's column of a field; choices may have several."""
        columns = self.columns.get(field, field)
        return [str(name) for name in columns] if isinstance(columns, list) else [str(columns)]

    def missing(self, header: Collection[str]) -> list[str]:
        """A message for each column that is required or mapped and is not in the header."""
        errors = []
        wanted = [*REQUIRED[self.kind], *(field for field in OPTIONAL[self.kind] if field in self.columns)]
        for field, name in ((ours, theirs) for ours in wanted for theirs in self.names(ours) if theirs not in header):
            hint = "" if field in self.columns else f"; name yours with data.columns={{{field}: ...}}"
            reply = " (or response: ..., an answer in free text)" if hint and field == "choices" else ""
            errors.append(f"has no column '{name}'{hint}{reply}; {nearest(name, header)}")
        return errors

    def record(self, raw: object, default_id: str) -> object:
        """Rename the columns of a raw record; what is not an object is returned as it is, for `parse_row` to report.

        The answer stays as it is in the file. `labels` are those of the choices, where they have any.
        """
        if not isinstance(raw, dict):
            return raw
        record: JsonObject = {}
        for field in self.fields:
            if field not in ("choices", "answer"):
                record[field] = _text(raw.get(self.names(field)[0], ""))
        record["id"] = record["id"] or default_id
        if self.kind == "choice":
            record["choices"], record["labels"] = self._choices(raw)
            answer = raw.get(self.names("answer")[0])
            record["answer"] = None if _is_empty(answer) else answer
        elif self.kind == "solution":
            record["answer"] = _text(raw.get(self.names("answer")[0], ""))
        return record

    def rename_fields(self, message: str) -> str:
        """Put the user's columns in place of the project's names of fields in an error message."""
        names = {field: self.names(field)[0] for field in self.fields if not isinstance(self.columns.get(field), list)}
        return re.sub(r"'(\w+)'", lambda quoted: f"'{names.get(quoted[1], quoted[1])}'", message)

    def _choices(self, raw: JsonObject) -> tuple[object, list[str]]:
        columns = self.names("choices")
        if isinstance(self.columns.get("choices"), list):
            texts = [_text(raw.get(name, "")) for name in columns]
            # A row with fewer choices leaves its last columns empty.
            while texts and texts[-1] == "":
                texts.pop()
            return texts, []
        choices = raw.get(columns[0])
        if isinstance(choices, str):
            try:
                choices = json.loads(choices)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    '\'choices\' is not a list; write a JSON list such as ["a", "b"], or name a column for each '
                    "choice, as in data.columns={choices: [a, b, c]}"
                ) from error
        labels: list[str] = []
        if isinstance(choices, dict) and isinstance(choices.get("text"), list):
            labels = [str(label) for label in choices.get("label") or []]
            choices = choices["text"]
        return [_text(choice) for choice in choices] if isinstance(choices, list) else choices, labels


def row_kind(columns: Mapping[str, object], header: Collection[str]) -> str:
    """The kind of the rows of a task: first the columns that are mapped decide, then those of its files."""
    for names in (set(columns), set(header)):
        for field, kind in (("choices", "choice"), ("final", "solution"), ("response", "reply")):
            if field in names:
                return kind
    return "choice"


def _is_empty(value: object) -> bool:
    """Whether a value is missing: null, blank text, or the NaN that tables have for it."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def _text(value: object) -> object:
    """Numbers as text, missing values as ""; `parse_row` reports the other types."""
    if _is_empty(value):
        return ""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class AmbiguousAnswersError(ValueError):
    """The answers of a task can be read in two forms that name different choices."""


def answer_form(rows: Sequence[tuple[object, Sequence[str]]]) -> str:
    """The form of a task's answers: the one that names a choice in most rows.

    Args:
        rows: answer and choices of each row; a missing answer (None) does not count.

    Raises:
        AmbiguousAnswersError: two forms fit equally well and name different choices.
    """
    answered = [(answer, choices) for answer, choices in rows if answer is not None]
    indices = {form: [choice_index(answer, choices, form) for answer, choices in answered] for form in ANSWER_FORMS}
    matches = {form: sum(index is not None for index in indices[form]) for form in ANSWER_FORMS}
    most = max(matches.values())
    best, *others = [form for form in ANSWER_FORMS if matches[form] == most]
    differing = [form for form in others if indices[form] != indices[best]]
    if differing and most:
        raise AmbiguousAnswersError(f"{best} or {differing[0]}")
    return best


def choice_index(answer: object, choices: Sequence[str], form: str) -> int | None:
    """The index of the choice that an answer names in this form; None if it names none."""
    index: int | None
    if form == "text":
        return _index_of_text(answer, choices)
    if form == "letter":
        letter = answer.strip().strip("().:").upper() if isinstance(answer, str) else ""
        index = ascii_uppercase.find(letter) if len(letter) == 1 else None
    else:
        number = _whole_number(answer)
        index = number - 1 if number is not None and form == "number" else number
    return index if index is not None and 0 <= index < len(choices) else None


def explain_answer(choices: Sequence[str], form: str) -> str:
    """What an answer that names no choice should have been."""
    last = len(choices) - 1
    return {
        "text": "is none of the choices",
        "letter": f"must be a letter, A..{ascii_uppercase[min(last, 25)]}",
        "index": f"must be an index, 0..{last}",
        "number": f"must be a number, 1..{last + 1}",
    }[form]


def _index_of_text(answer: object, choices: Sequence[str]) -> int | None:
    if not isinstance(answer, str):
        return None
    exact = [choice.strip() for choice in choices]
    lower = [choice.lower() for choice in exact]
    for text, texts in ((answer.strip(), exact), (answer.strip().lower(), lower)):
        if text in texts:
            return texts.index(text)
    return None


def _whole_number(answer: object) -> int | None:
    if isinstance(answer, bool):
        return None
    if isinstance(answer, str):
        text = answer.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else None
    return int(answer) if isinstance(answer, int) or (isinstance(answer, float) and answer.is_integer()) else None
