"""A table as data, whatever it is written as: title, columns, rows of cells, notes."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

# PART: A table as data, whatever it is written as: title, columns, rows of cells, notes.


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


# PART: A table as Markdown, LaTeX and CSV.


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$\dagger$", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def markdown(table: Table) -> str:
    """The table as GitHub's Markdown, with its heading and notes."""

    def line(cells: Iterable[str]) -> str:
        """One row."""
        return f"| {' | '.join(cells)} |"

    def text(cell: Cell) -> str:
        """A cell; best in bold."""
        plain = cell.text.replace("|", "\\|").replace("*", "\\*")
        return f"**{plain}**" if cell.best else plain

    rules = ["---:" if table.numeric(i) else "---" for i in range(len(table.columns))]
    lines = [line(table.columns), line(rules), *(line(map(text, row)) for row in table.rows)]
    notes = [note.replace("*", "\\*") + "  " for note in table.notes]
    return "\n".join([f"### {table.title}", "", *lines, "", *notes, ""])


def latex(table: Table) -> str:
    """The table for LaTeX with the package booktabs."""

    def text(cell: Cell) -> str:
        """A cell; best in bold."""
        plain = escaped(cell.text)
        return rf"\textbf{{{plain}}}" if cell.best else plain

    spec = "".join("r" if table.numeric(i) else "l" for i in range(len(table.columns)))
    rows = [" & ".join(map(text, row)) + r" \\" for row in table.rows]
    head = " & ".join(map(escaped, table.columns)) + r" \\"
    caption = escaped(". ".join([table.title, *(note.rstrip(".") for note in table.notes)]) + ".")
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule", head, r"\midrule", *rows, r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{caption}}}",
            r"\end{table}",
            "",
        ]
    )  # fmt: skip


def escaped(text: str) -> str:
    """Text in which nothing is a command of LaTeX."""
    return "".join(LATEX.get(character, character) for character in text)


def as_csv(table: Table) -> str:
    """The table with whole numbers: a column more for the deviation and one for the seeds where there are some."""
    heads, rows = list[str](), [list[object]() for _ in table.rows]
    for i, name in enumerate(table.columns):
        averaged = any(row[i].seeds for row in table.rows)
        heads += [name, *([f"{name} std", f"{name} seeds"] if averaged else [])]
        for values, row in zip(rows, table.rows, strict=True):
            values += [_plain(row[i]), *([row[i].spread, row[i].seeds or None] if averaged else [])]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([heads, *rows])
    return out.getvalue()


def _plain(cell: Cell) -> object:
    """The number behind a cell; of an interval or a text what stands there; nothing where it is missing."""
    if cell.value is None:
        return None if cell.text == "-" else cell.text
    return cell.text if " to " in cell.text else cell.value
