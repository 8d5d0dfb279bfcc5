"""Rows that cannot be used: one message for each kind of mistake in a file, with the number of rows and the first."""

from dataclasses import dataclass, field
from pathlib import Path

NOT_UTF8 = 'is not UTF-8; save the file as UTF-8 (in Excel: "CSV UTF-8")'
# Rows that a message names.
NAMED = 3
# Kinds of mistakes that are listed.
LISTED = 50
# Characters of a value that a message quotes.
QUOTED = 60


class RowError(ValueError):
    """Why a row cannot be used.

    Attributes:
        kind: what is the same in all rows with this mistake: the message without its values.
    """

    def __init__(self, message: str, kind: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind or message


def shortened(text: str) -> str:
    """A text on one line, and not longer than `QUOTED` characters."""
    line = " ".join(text.split())
    return line if len(line) <= QUOTED else line[:QUOTED] + "..."


def quoted(value: object) -> str:
    """A value for a message: on one line, and not longer than `QUOTED` characters."""
    return f"'{shortened(str(value))}'"


@dataclass
class _Kind:
    message: str
    count: int = 0
    first: list[int] = field(default_factory=list)


@dataclass
class BadRows:
    """The bad rows of some files."""

    kinds: dict[tuple[Path, str], _Kind] = field(default_factory=dict)

    def add(self, path: Path, line: int, error: ValueError) -> None:
        """Count a bad row of a file."""
        kind = self.kinds.setdefault((path, getattr(error, "kind", str(error))), _Kind(str(error)))
        kind.count += 1
        if len(kind.first) < NAMED:
            kind.first.append(line)

    def update(self, other: "BadRows") -> None:
        """Add the bad rows of other files."""
        self.kinds.update(other.kinds)

    @property
    def count(self) -> int:
        """How many rows are bad."""
        return sum(kind.count for kind in self.kinds.values())

    @property
    def messages(self) -> list[str]:
        """``file:line: reason`` for each kind of mistake in each file, in the order of the lines."""
        paths = {path: number for number, (path, _) in enumerate(self.kinds)}
        messages = [
            f"{path}:{kind.first[0]}: {kind.message}"
            + (f"; {kind.count:,} such rows, the first {', '.join(map(str, kind.first))}" if kind.count > 1 else "")
            for (path, _), kind in sorted(self.kinds.items(), key=lambda entry: (paths[entry[0][0]], entry[1].first[0]))
        ]
        more = len(messages) - LISTED
        return messages if more <= 0 else [*messages[:LISTED], f"{more} more kinds of mistakes"]
