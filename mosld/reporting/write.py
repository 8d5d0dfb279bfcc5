"""The files of a report, each written whole, and the tables on the terminal."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from mosld.common.errors import UserError
from mosld.common.files import write_text
from mosld.common.terminal import one_line
from mosld.reporting.html import html_page
from mosld.reporting.sections import Section
from mosld.reporting.table import Table, as_csv, file_names, latex, markdown
from mosld.reporting.tables import AVERAGE
from mosld.runs.console import SafeConsole

PAGE = "report.html"
# Width of the tables where the output is no terminal.
PIPE_COLUMNS = 160

LeftOut = Sequence[tuple[str, str]]
"""Paths that the report does not use, with the reason."""


def check_output(output: Path) -> None:
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


def write_report(output: Path, head: Sequence[str], sections: Sequence[Section], left_out: LeftOut) -> None:
    """Write report.html, report.md, tables/*.csv and *.tex, figures/*.svg and *.png, in place of an earlier report.

    Args:
        head: sentences about the whole report, below the title of both pages.
        left_out: paths that the report does not use.

    Raises:
        UserError: a file cannot be written.
    """
    try:
        for folder in ("tables", "figures"):
            shutil.rmtree(output / folder, ignore_errors=True)
            (output / folder).mkdir(parents=True)
        tables = [table for section in sections for table in section.tables]
        for name, table in zip(file_names(table.title for table in tables), tables, strict=True):
            write_text(output / "tables" / f"{name}.csv", as_csv(table))
            write_text(output / "tables" / f"{name}.tex", latex(table))
        _write_markdown(output, head, sections, left_out)
        write_text(output / PAGE, html_page(head, sections, left_out))
    except OSError as error:
        raise UserError(f"--output {output}: {error.filename}: {error.strerror}.") from error


def _write_markdown(output: Path, head: Sequence[str], sections: Sequence[Section], left_out: LeftOut) -> None:
    """Write report.md and the figures it shows."""
    names = iter(file_names(figure.title for section in sections for figure in section.figures))
    parts = ["# Report", "", *(f"{sentence}  " for sentence in head), ""]
    for section in sections:
        parts += [f"## {section.title}", "", *(markdown(table) for table in section.tables)]
        for figure in section.figures:
            name = next(names)
            figure.write(output / "figures", name)
            parts += [f"![{figure.title}](figures/{name}.png)", ""]
        parts += [section.note, ""] if section.note else []
    if left_out:
        parts += ["## Left out", "", *(f"- {one_line(path)}: {why}" for path, why in left_out), ""]
    write_text(output / "report.md", "\n".join(parts))


def print_report(sections: Sequence[Section], left_out: LeftOut) -> None:
    """Print the tables (of the long ones the averages; no row without a number) and the paths left out, with why."""
    console = SafeConsole(file=sys.stdout, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    for section in sections:
        # Each note is printed once a section.
        printed: set[str] = set()
        for table in section.tables:
            rows = [row for row in table.rows if row[1].text == AVERAGE] if table.long else table.rows
            rows = [row for row in rows if any(cell.value is not None for cell in row)]
            if rows:
                notes = [note for note in table.notes if note not in printed]
                console.print(_rich_table(replace(table, rows=rows, notes=notes)))
                printed.update(notes)
    if left_out:
        console.print(Text(f"Left out ({len(left_out)}):", style="bold"))
        for path, why in left_out:
            console.print(Text(f"  {path}: {why}"), soft_wrap=True)


def _rich_table(table: Table) -> RenderableType:
    """The table for a terminal, notes below."""
    rich_table = RichTable(title=Text(table.title, style="bold"), title_justify="left")
    for i, column in enumerate(table.columns):
        rich_table.add_column(column, justify="right" if table.is_numeric(i) else "left")
    for row in table.rows:
        rich_table.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
    return Group(rich_table, *(Text(note, style="dim") for note in table.notes), Text(""))
