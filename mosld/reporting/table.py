"""A table as data (title, columns, rows of cells, notes), and as Markdown, LaTeX and CSV."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from mosld.common.terminal import one_line
from mosld.reporting.run import Run

LATEX_ESCAPES = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$\dagger$", "<": r"$<$", ">": r"$>$",
})  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what is shown.
        value: the number behind it, for sorting and CSV; None if there is none.
        spread: standard deviation over seeds, in the unit of `value`.
        seeds: how many runs it is the mean of; 0 if it is no mean.
        best: whether it is better than the rest of its column beyond the interval.
    """

    text: str
    value: float | None = None
    spread: float | None = None
    seeds: int = 0
    best: bool = False
    runs: Sequence[Run] = field(default=(), repr=False)


NO_VALUE = Cell("-")


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: one line; says source, model and data.
        columns: heads; the first names the rows.
        rows: as many cells each as there are columns.
        notes: what a reader must know, one sentence each.
        long: whether the terminal shows only its averages.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    long: bool = False

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds numbers, or nothing yet."""
        return column > 0 and any(row[column].value is not None or row[column] is NO_VALUE for row in self.rows)

    def without_empty_columns(self) -> "Table":
        """The table without the columns that have no value in any row."""
        kept = [i for i in range(len(self.columns)) if any(row[i] is not NO_VALUE for row in self.rows)]
        rows = [[row[i] for i in kept] for row in self.rows]
        return replace(self, columns=[self.columns[i] for i in kept], rows=rows)


def file_names(titles: Iterable[str]) -> list[str]:
    """The titles as names of files without extension, each name once."""
    names: list[str] = []
    for title in titles:
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:100]
        name, number = slug, 1
        while name in names:
            number += 1
            name = f"{slug}-{number}"
        names.append(name)
    return names


def markdown(table: Table) -> str:
    """The table as GitHub's Markdown, with its heading and notes."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def text(cell: Cell) -> str:
        plain = _escape(cell.text)
        return f"**{plain}**" if cell.best else plain

    rules = ["---:" if table.is_numeric(i) else "---" for i in range(len(table.columns))]
    lines = [line(map(_escape, table.columns)), line(rules), *(line(map(text, row)) for row in table.rows)]
    notes = [_escape(note) + "  " for note in table.notes]
    return "\n".join([f"### {_escape(table.title)}", "", *lines, "", *notes, ""])


def _escape(text: str) -> str:
    """A text without marks of Markdown, HTML or mathematics."""
    return re.sub(r"[|*`<$]", r"\\\g<0>", text)


def latex(table: Table) -> str:
    """The table for LaTeX with the package booktabs."""

    def text(cell: Cell) -> str:
        plain = cell.text.translate(LATEX_ESCAPES)
        return rf"\textbf{{{plain}}}" if cell.best else plain

    alignment = "".join("r" if table.is_numeric(i) else "l" for i in range(len(table.columns)))
    caption = ". ".join([table.title, *(note.rstrip(".") for note in table.notes)]) + "."
    return "\n".join([
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(column.translate(LATEX_ESCAPES) for column in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(map(text, row)) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{caption.translate(LATEX_ESCAPES)}}}",
        r"\end{table}",
        "",
    ])  # fmt: skip


def as_csv(table: Table) -> str:
    """The table with unrounded numbers; a column of means is followed by one of deviations and one of seeds."""
    columns: list[list[object]] = []
    for i, name in enumerate(table.columns):
        cells = [row[i] for row in table.rows]
        name = _csv_text(name)
        columns.append([name, *map(_csv_value, cells)])
        if any(cell.seeds for cell in cells):
            columns.append([f"{name} std", *(cell.spread for cell in cells)])
            columns.append([f"{name} seeds", *(cell.seeds or None for cell in cells)])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
    return text.getvalue()


def _csv_value(cell: Cell) -> object:
    """The number behind a cell; the text of an interval or of a cell without a number; None for a missing number."""
    if cell.value is None:
        return None if cell.text == NO_VALUE.text else _csv_text(cell.text)
    return cell.text if " to " in cell.text else cell.value


def _csv_text(text: str) -> str:
    """A text that a table editor takes for a text and not for a formula, which it would run."""
    text = one_line(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
