"""The user's own tasks: files in any of the known forms, read with a map of columns, and divided where need be.

1. every file's records are read, and its columns compared with the map;
2. the answers of a task are looked at together, to see how they name a choice;
3. each record becomes a row, or a line ``file:line: reason``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosld.common.errors import UserError, nearest
from mosld.config.checks import maps_by_task
from mosld.config.local_files import Files, own_files
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.columns import ColumnMap, UnclearError, answer_form, explain_answer, kind_of, place
from mosld.data.parsing import parse_row
from mosld.data.records import Record, parse_rows, read_records
from mosld.data.rows import AnyRow
from mosld.data.sources import Published
from mosld.data.splits import held_out
from mosld.data.tasks import Task

CUTOFF = 512


@dataclass
class _Reading:
    """One task while it is read: its files, records, and what is wrong with its rows."""

    name: str
    files: Files
    columns: ColumnMap
    records: dict[str, list[Record]]
    bad: list[str]


def read_own(data: DataConfig, source: SourceConfig, training: bool) -> tuple[dict[str, Task], Published]:
    """The user's tasks, and their rows by split with a line for each bad one.

    Raises:
        UserError: a task, file or column is missing, or answers can be read in two ways.
    """
    found = own_files(Path(source.root or ""))
    mapped = list(data.columns) if maps_by_task(data) else []
    for given, names in (("data.tasks", data.tasks), ("data.columns", mapped)):
        unknown = [name for name in names if name not in found]
        if unknown:
            raise UserError(f"{given}: source.root={source.root} lacks {unknown[0]}; {nearest(unknown[0], found)}")
    tasks, published, faults = dict[str, Task](), Published(), list[str]()
    for name in data.tasks or found:
        try:
            reading = _read(name, found[name], data, training)
            form = _answers(reading, data.answer_as)
        except UserError as error:
            faults += error.messages
        else:
            tasks[name], rows = _divided(reading, data, form, training)
            published[name] = rows, reading.bad
    if faults:
        raise UserError(*faults)
    return tasks, published


def _read(name: str, files: Files, data: DataConfig, training: bool) -> _Reading:
    if training and "train" not in files:
        raise UserError(f"{name}: has no train file beside {', '.join(path.name for path in files.values())}.")
    scoring = ["test" if "test" in files else "train"]
    used = {split: files[split] for split in (list(files) if training else scoring)}
    given = data.columns.get(name, {}) if maps_by_task(data) else data.columns
    records = {split: list(read_records(path)) for split, path in used.items()}
    headers = {split: _columns(found) for split, found in records.items()}
    kind = kind_of(given, [name for header in headers.values() for name in header])
    columns = ColumnMap(name, given, kind)
    lacking = [
        f"{used[split]}: {fault}" for split in used if headers[split] for fault in columns.missing(headers[split])
    ]
    if lacking:
        raise UserError(*lacking)
    return _Reading(name, used, columns, records, [])


def _columns(records: list[Record]) -> list[str]:
    """All keys of the records, in the order in which they come."""
    return list(dict.fromkeys(str(key) for _, record in records if isinstance(record, dict) for key in record))


def _answers(reading: _Reading, form: str) -> str:
    """The form of the task's answers: the one that is set, or the one that the rows show."""
    if reading.columns.kind != "choice" or form != "auto":
        return form
    seen = []
    for record in (record for records in reading.records.values() for _, record in records):
        try:
            made = reading.columns.record(record, "")
        except ValueError:
            continue  # reported when the row is made
        if isinstance(made, dict) and isinstance(made["choices"], list) and not made["labels"]:
            seen.append((made["answer"], [choice for choice in made["choices"] if isinstance(choice, str)]))
    try:
        return answer_form(seen)
    except UnclearError as error:
        column = reading.columns.column("answer")
        raise UserError(
            f"{reading.name}: the answers ('{column}') can be read as {error}, which differ; say which with "
            "data.answer_as (index is from 0, number from 1)."
        ) from error


def _divided(reading: _Reading, data: DataConfig, form: str, training: bool) -> tuple[Task, dict[str, list[AnyRow]]]:
    """The task, and its rows by split, a test held out of train where there is no file for it."""
    scored = reading.columns.kind != "reply" or data.score_replies
    validated = "validation" in reading.files
    task = Task(
        reading.name,
        reading.name,
        holdout=0.0 if validated or not scored else data.holdout,
        cutoff=CUTOFF,
        kind=reading.columns.kind,
        scored=scored,
    )
    rows = {
        split: parse_rows(path, iter(reading.records[split]), _parser(reading, task, split, form), reading.bad)
        for split, path in reading.files.items()
    }
    if scored and "test" not in rows:
        rows["train"], rows["test"] = held_out(rows["train"], data.holdout, "test")
    return task, rows if training else {"test": rows["test"]} if scored else {}


def _parser(reading: _Reading, task: Task, split: str, form: str) -> Callable[[int, Any], AnyRow]:
    def parse(line: int, raw: Any) -> AnyRow:
        """The row of a record; a ValueError says what is wrong, with the user's names of columns."""
        try:
            record = reading.columns.record(raw, f"{split}/{line}")
            if task.kind == "choice" and isinstance(record, dict):
                _set_answer(record, form, str(reading.columns.column("answer")))
            return parse_row(task, record)
        except ValueError as error:
            raise ValueError(reading.columns.told(str(error))) from error

    return parse


def _set_answer(record: dict[str, Any], form: str, column: str) -> None:
    """Put the index of the right choice in place of the answer, as far as the record is whole."""
    answer, choices, labels = record["answer"], record["choices"], record.pop("labels")
    if answer is None or not isinstance(choices, list) or len(choices) < 2:
        return
    if any(not isinstance(choice, str) for choice in choices):
        return
    found = labels.index(str(answer)) if str(answer) in labels else None if labels else place(answer, choices, form)
    if found is None:
        why = f"must be one of the labels {', '.join(labels)}" if labels else explain_answer(answer, choices, form)
        raise ValueError(f"'{column}' {why}, is {answer!r}")
    record["answer"] = found
