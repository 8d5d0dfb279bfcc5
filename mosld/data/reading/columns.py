"""The names of a file's columns: compared, written on the command line, and recognised as one for each choice."""

import re
from collections.abc import Callable, Collection, Sequence
from string import ascii_lowercase

from mosld.common.files import JsonObject

_CHOICE_COLUMN = re.compile(
    r"((?:option|choice|alternative|candidate)s?|opt|op|(?:mc[ _-]?)?answer|ans|sol|ending)?[ _./\[(-]*"
    r"([a-z]|[0-9]{1,2})[\]).:]*([ _-]text)?",
    re.IGNORECASE,
)
# There are letters for so many.
MAX_CHOICES = 26
_CHOICE_MARKS = (ascii_lowercase, list(map(str, range(MAX_CHOICES))), list(map(str, range(1, MAX_CHOICES + 1))))

# Reads the first records with the named columns.
Head = Callable[[Collection[str]], list[JsonObject]]
# A field's column, nested as in question.stem, or one column for each choice.
Column = str | list[str]


def plain(name: str) -> str:
    """A name without what does not matter in it."""
    return re.sub(r"[\s_-]", "", name).lower()


def written(column: str) -> str:
    """A column as it is written on the command line."""
    return column if re.fullmatch(r"[\w .-]+", column, re.ASCII) else f'"{column}"'


def choice_columns(columns: Sequence[str]) -> list[str]:
    """The columns A, B, C, ... or option_1, option_2, ..., one for each choice; none where there are not two."""
    groups: dict[str, dict[str, str]] = {}
    for column in columns:
        match = _CHOICE_COLUMN.fullmatch(column.strip())
        if match:
            mark = match[2].lower().lstrip("0") or "0"
            groups.setdefault(f"{(match[1] or '').lower()}{mark.isdigit()}{match[3]}", {})[mark] = column
    for group in (group for group in groups.values() if len(group) <= MAX_CHOICES):
        for marks in _CHOICE_MARKS:
            run = []
            for mark in marks:
                if mark not in group:
                    break
                run.append(group[mark])
            if len(run) >= 2:
                return run
    return []


def choice_mark(column: str) -> str:
    """The letter or number by which a column holds one of the choices; "" for other columns."""
    match = _CHOICE_COLUMN.fullmatch(column.strip())
    return match[2].upper() if match else ""
