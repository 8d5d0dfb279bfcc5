"""A table as data, whatever it is written as: title, columns, rows of cells, notes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MISSING = "-"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what a person reads.
        value: the number behind it, for sorting and CSV; None where there is none.
        spread: standard deviation over seeds, in the unit of `value`.
        seeds: how many runs it is the mean of; 0 where it is no mean.
        best: whether it is the best of its column.
        runs: the runs it comes from.
    """

    text: str
    value: float | None = None
    spread: float | None = None
    seeds: int = 0
    best: bool = False
    runs: Sequence[Any] = field(default=(), repr=False)


NOTHING = Cell(MISSING)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: one line; says source, model and data.
        columns: heads; the first names the rows.
        rows: as many cells each as there are columns.
        notes: what a reader must know, one sentence each.
        long: whether it is for looking things up: the terminal shows its averages alone.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    long: bool = False

    @property
    def slug(self) -> str:
        """The title as the name of a file."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:100]

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, or nothing yet."""
        return column > 0 and any(row[column].value is not None or row[column] is NOTHING for row in self.rows)


def unlike(tables: Sequence[Table]) -> list[tuple[str, Table]]:
    """Each table with a file name that no other has."""
    seen: dict[str, int] = {}
    named = []
    for table in tables:
        seen[table.slug] = seen.get(table.slug, 0) + 1
        again = seen[table.slug]
        named.append((table.slug if again == 1 else f"{table.slug}-{again}", table))
    return named


def mark_best(rows: list[list[Cell]], column: int) -> None:
    """Mark the highest value of a column, and all that read the same to one decimal."""
    values = [row[column].value for row in rows]
    highest = max((round(value, 1) for value in values if value is not None), default=None)
    for row, value in zip(rows, values, strict=True):
        if value is not None and round(value, 1) == highest:
            row[column] = Cell(**{**vars(row[column]), "best": True})
