"""The last stage: the files of a report, each whole or not there."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from mosld.common.errors import UserError
from mosld.common.files import write_text
from mosld.reporting.html import page
from mosld.reporting.sections import Section
from mosld.reporting.table import Table, as_csv, latex, markdown, unlike
from mosld.reporting.tables import AVERAGE

# PART: The last stage: the files of a report, each whole or not there.


PAGE, PROSE = "report.html", "report.md"


def require_place(output: Path) -> None:
    """Refuse a directory that holds something other than an earlier report.

    Raises:
        UserError: it does, or it cannot be a directory.
    """
    try:
        taken = output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / PAGE).is_file()))
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}.") from error
    if taken:
        raise UserError(f"--output {output}: is not empty and holds no report; name a new directory.")


def write_report(output: Path, sections: Sequence[Section], left_out: Sequence[tuple[str, str]]) -> None:
    """Write report.html, report.md, tables/*.csv and *.tex, figures/*.svg and *.png, in place of an earlier report.

    Raises:
        UserError: something cannot be written.
    """
    try:
        for folder in ("tables", "figures"):
            shutil.rmtree(output / folder, ignore_errors=True)
            (output / folder).mkdir(parents=True)
        tables = [table for section in sections for table in section.tables]
        for name, table in unlike(tables):
            write_text(output / "tables" / f"{name}.csv", as_csv(table))
            write_text(output / "tables" / f"{name}.tex", latex(table))
        _write_prose(output, sections, left_out)
        write_text(output / PAGE, page(sections, left_out))
    except OSError as error:
        raise UserError(f"--output {output}: {error.filename}: {error.strerror}.") from error


def _write_prose(output: Path, sections: Sequence[Section], left_out: Sequence[tuple[str, str]]) -> None:
    """report.md, and the figures it shows."""
    parts, names = ["# Report", ""], set[str]()
    for section in sections:
        parts += [f"## {section.title}", "", *(markdown(table) for table in section.tables)]
        for figure in section.figures:
            name = next(n for n in _numbered(figure.slug) if n not in names)
            names.add(name)
            figure.write(output / "figures", name)
            parts += [f"![{figure.title}](figures/{name}.png)", ""]
        parts += [section.note, ""] if section.note else []
    if left_out:
        parts += ["## Left out", "", *(f"- {path}: {why}" for path, why in left_out), ""]
    write_text(output / PROSE, "\n".join(parts))


def _numbered(name: str) -> Sequence[str]:
    return [name, *(f"{name}-{i}" for i in range(2, 1000))]


# PART: What the report prints: the tables that fit a terminal, and what was left out.


WIDE = 160  # columns where nobody says how many there are: a pipe or a file


def print_report(sections: Sequence[Section], left_out: Sequence[tuple[str, str]]) -> None:
    """Print every table (of the long ones the averages), and each directory that was left out with the reason."""
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDE)
    for section in sections:
        told = set[str]()  # what holds for a whole section is said once
        for table in section.tables:
            rows = [row for row in table.rows if row[1].text == AVERAGE] if table.long else table.rows
            if rows:
                notes = [note for note in table.notes if note not in told]
                console.print(terminal(replace(table, rows=rows, notes=notes)))
                told |= set(notes)
    if left_out:
        console.print(Text(f"Left out ({len(left_out)}):", style="bold"))
        for path, why in left_out:
            console.print(Text(f"  {path}: {why}"), soft_wrap=True)


def terminal(table: Table) -> RenderableType:
    """The table for a terminal, notes below."""
    shown = RichTable(title=Text(table.title, style="bold"), title_justify="left")
    for i, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if table.numeric(i) else "left")
    for row in table.rows:
        shown.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
    return Group(shown, *(Text(note, style="dim") for note in table.notes), Text(""))
