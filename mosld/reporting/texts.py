"""A table as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Iterable

from mosld.reporting.table import Cell, Table

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
