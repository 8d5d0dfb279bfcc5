"""Reading JSON-lines files of the project's own form: all that is bad is named as file:line: reason."""

from pathlib import Path

from mosld.data.parsing import parse_row
from mosld.data.records import good_rows, read_records
from mosld.data.rows import AnyRow
from mosld.data.tasks import TASKS


def read_rows(path: Path, task: str, bad: list[str]) -> list[AnyRow]:
    """The good rows of a benchmark's file; ``file:line: reason`` for each bad one is appended to `bad`."""
    return good_rows(path, read_records(path), lambda _, record: parse_row(TASKS[task], record), bad)
