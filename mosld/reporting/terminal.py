"""What the report prints: the tables that fit a terminal, and what was left out."""

import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from mosld.reporting.sections import Section
from mosld.reporting.table import Table
from mosld.reporting.tables import AVERAGE

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
