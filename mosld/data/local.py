"""The user's own tasks: files in any known format, mapped by their columns, and split where a split has no file.

1. the records of every file are read, and its columns compared with the map;
2. the form of a task's answers is found from all its rows;
3. each record becomes a row, or an error ``file:line: reason``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mosld.common.errors import UserError, nearest
from mosld.common.files import JsonObject
from mosld.config.checks import maps_by_task
from mosld.config.local_files import Files, own_files
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.columns import (
    AmbiguousAnswersError,
    ColumnMap,
    answer_form,
    choice_index,
    explain_answer,
    row_kind,
)
from mosld.data.parsing import parse_row
from mosld.data.records import Record, parse_rows, read_records
from mosld.data.rows import AnyRow
from mosld.data.sources import Published
from mosld.data.splits import hold_out
from mosld.data.tasks import Task

# The longest row in tokens; `data.cutoff` changes it.
DEFAULT_CUTOFF = 512


@dataclass(frozen=True)
class _Reader:
    """A task's files with their records, and how a record becomes a row."""

    task: Task
    files: Files
    columns: ColumnMap
    records: dict[str, list[Record]]
    answer_form: str

    def rows(self, errors: list[str]) -> dict[str, list[AnyRow]]:
        """The rows of each file; ``file:line: reason`` is appended to `errors` for each bad one."""
        return {
            split: parse_rows(path, self.records[split], partial(self._parse, split), errors)
            for split, path in self.files.items()
        }

    def _parse(self, split: str, line: int, raw: object) -> AnyRow:
        try:
            record = self.columns.record(raw, f"{split}/{line}")
            if self.task.kind == "choice" and isinstance(record, dict):
                self._index_answer(record)
            return parse_row(self.task, record)
        except ValueError as error:
            raise ValueError(self.columns.rename_fields(str(error))) from error

    def _index_answer(self, record: JsonObject) -> None:
        """Replace the answer by the index of the right choice, unless `parse_row` will refuse the record anyway."""
        answer, choices, labels = record["answer"], record["choices"], record.pop("labels")
        if answer is None or not isinstance(choices, list) or len(choices) < 2:
            return
        if any(not isinstance(choice, str) for choice in choices):
            return
        if labels:
            index = labels.index(str(answer)) if str(answer) in labels else None
            reason = f"must be one of the labels {', '.join(labels)}"
        else:
            index = choice_index(answer, choices, self.answer_form)
            reason = explain_answer(choices, self.answer_form)
        if index is None:
            raise ValueError(f"'answer' {reason}, is {answer!r}")
        record["answer"] = index


def read_own(data: DataConfig, source: SourceConfig, training: bool) -> tuple[dict[str, Task], Published]:
    """Read the user's tasks; a test is held out of train where there is no file for it.

    Raises:
        UserError: a task, file or column is missing, or answers can be read in two ways.
    """
    files = own_files(Path(source.root or ""))
    mapped = list(data.columns) if maps_by_task(data) else []
    for key, names in (("data.tasks", data.tasks), ("data.columns", mapped)):
        unknown = [name for name in names if name not in files]
        if unknown:
            raise UserError(f"{key}: source.root={source.root} lacks {unknown[0]}; {nearest(unknown[0], files)}")
    tasks: dict[str, Task] = {}
    published: Published = {}
    errors: list[str] = []
    for name in data.tasks or files:
        try:
            reader = _open(name, files[name], data, training)
        except UserError as error:
            errors += error.messages
            continue
        bad_rows: list[str] = []
        rows = reader.rows(bad_rows)
        if reader.task.scored and "test" not in rows:
            rows["train"], rows["test"] = hold_out(rows["train"], data.holdout, "test")
        if not training:
            rows = {"test": rows["test"]} if reader.task.scored else {}
        tasks[name] = reader.task
        published[name] = rows, bad_rows
    if errors:
        raise UserError(*errors)
    return tasks, published


def _open(name: str, files: Files, data: DataConfig, training: bool) -> _Reader:
    """Read a task's records and find its kind and the form of its answers."""
    if training and "train" not in files:
        raise UserError(f"{name}: has no train file beside {', '.join(path.name for path in files.values())}.")
    if not training:
        split = "test" if "test" in files else "train"
        files = {split: files[split]}
    mapping = data.columns.get(name, {}) if maps_by_task(data) else data.columns
    records = {split: list(read_records(path)) for split, path in files.items()}
    headers = {split: _header(records[split]) for split in files}
    columns = ColumnMap(mapping, row_kind(mapping, [column for header in headers.values() for column in header]))
    errors = [
        f"{files[split]}: {error}" for split, header in headers.items() if header for error in columns.missing(header)
    ]
    if errors:
        raise UserError(*errors)
    scored = columns.kind != "reply" or data.score_replies
    task = Task(
        name,
        name,
        holdout=data.holdout if scored and "validation" not in files else 0.0,
        cutoff=DEFAULT_CUTOFF,
        kind=columns.kind,
        scored=scored,
    )
    form = data.answer_as
    if columns.kind == "choice" and form == "auto":
        form = _answer_form(name, columns, records)
    return _Reader(task, files, columns, records, form)


def _header(records: list[Record]) -> list[str]:
    """All keys of the records, in the order in which they appear."""
    return list(dict.fromkeys(str(key) for _, record in records if isinstance(record, dict) for key in record))


def _answer_form(name: str, columns: ColumnMap, records: Mapping[str, list[Record]]) -> str:
    answered: list[tuple[object, list[str]]] = []
    for raw in (raw for split_records in records.values() for _, raw in split_records):
        try:
            record = columns.record(raw, "")
        except ValueError:
            # Reported when the row is made.
            continue
        if isinstance(record, dict) and isinstance(record["choices"], list) and not record["labels"]:
            answered.append((record["answer"], [choice for choice in record["choices"] if isinstance(choice, str)]))
    try:
        return answer_form(answered)
    except AmbiguousAnswersError as error:
        column = columns.names("answer")[0]
        raise UserError(
            f"{name}: the answers ('{column}') can be read as {error}, which differ; say which with "
            "data.answer_as (index is from 0, number from 1)."
        ) from error
