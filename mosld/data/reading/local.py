"""The user's own tasks: files in any known form, and a test held out where there is no file for it.

1. the form of every file is recognised by its columns (`forms`);
2. each record becomes a row, or a bad row with the reason; the answers of choices are kept in every form in which they
   can be read, and the form that fits the whole task is chosen (`choices.answer_form`);
3. what was read is kept in the cache, where there is much of it.
"""

import unicodedata
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from pathlib import Path

import numpy

from mosld.common.errors import UserError, nearest
from mosld.common.files import JsonObject
from mosld.config.checks import maps_by_task
from mosld.config.local_files import Files, data_format, named_split, own_files
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.leaks import Record
from mosld.data.reading.bad_rows import BadRows, RowError, quoted, shortened
from mosld.data.reading.choices import ANSWER_FORMS, AmbiguousAnswersError, answer_form, choice_index
from mosld.data.reading.forms import REQUIRED, Form, may_be_field, recognise
from mosld.data.reading.parsing import parse_row
from mosld.data.reading.records import HEAD, RecordFile
from mosld.data.reading.row_cache import cached_rows
from mosld.data.reading.row_table import KINDS, RowTable, RowTableBuilder, unique_ids
from mosld.data.reading.sources import ReadTask
from mosld.data.reading.values import type_name
from mosld.data.rows import Reply, Row, row_keys
from mosld.data.splits import Rows, hold_out, take
from mosld.data.tasks import Task

# Columns that are named where they are not read.
LISTED_COLUMNS = 6
HEADER_HINT = " The first line of a table must name its columns."
NOTHING_TO_SCORE = "{}: rows without answers cannot be scored; move the file to another folder to do without it."
# The longest row in tokens; `data.cutoff` changes it.
DEFAULT_CUTOFF = 512


def read_own(data: DataConfig, source: SourceConfig, training: bool, record: Record | None) -> dict[str, ReadTask]:
    """Read the user's tasks; a test is held out of train where there is no file for it.

    Args:
        data: which tasks, and how their columns are called.
        source: where the files are.
        training: whether train and validation rows are wanted.
        record: without `training`, the rows that the run was trained on.

    Raises:
        UserError: a task, file or column is missing, or answers can be read in two ways.
    """
    root = Path(source.root or "")
    files = own_files(root)
    mapped = list(data.columns) if maps_by_task(data) else []
    for key, names in (("data.tasks", data.tasks), ("data.columns", mapped)):
        unknown = [name for name in names if name not in files]
        if unknown:
            raise UserError(f"{key}: source.root={source.root} lacks {unknown[0]}; {nearest(unknown[0], files)}")
    tasks: dict[str, ReadTask] = {}
    errors: list[str] = []
    for name in data.tasks or files:
        try:
            mapping = data.columns.get(name, {}) if maps_by_task(data) else data.columns
            reader = _TaskReader(name, _wanted_files(name, files[name], training), mapping, data.answer_as)
            task = cached_rows(name, reader.files, [mapping, data.answer_as], reader.read)
            tasks[name] = _divide(task, files[name], data, training, record)
        except UserError as error:
            errors += error.messages
    if errors:
        raise UserError(*errors)
    return tasks


def _wanted_files(name: str, files: Files, training: bool) -> Files:
    """The files to read: all for training, else the test, or what a test is held out of."""
    if not training:
        split = next(split for split in ("test", "train", "validation") if split in files)
        return {split: files[split]}
    if "train" not in files:
        listed = ", ".join(f"{path} ({split})" for split, paths in files.items() for path in paths)
        raise UserError(
            f"{name}: has no train file, only {listed}; a file that is named as a validation or test is never trained "
            "on. Add a train file, or rename the file."
        )
    return files


@dataclass
class _ReadFile:
    """The rows of a file, and of choices the answers in every form in which each can be read.

    Attributes:
        path: the file.
        form: of its rows.
        builder: its rows.
        answers: as they are in the file.
        labels: of the choices, for messages; only of rows whose answer is no label.
        indices: by form, the index of the choice that each row's answer names, -1 for none.
        lines: of the rows.
        unread: names of the columns that nobody reads.
    """

    path: Path
    form: Form
    builder: RowTableBuilder
    answers: list[object] = field(default_factory=list)
    labels: dict[int, list[str]] = field(default_factory=dict)
    indices: dict[str, "array[int]"] = field(default_factory=lambda: {form: array("b") for form in ANSWER_FORMS})
    lines: "array[int]" = field(default_factory=lambda: array("l"))
    unread: list[str] = field(default_factory=list)

    def add_answer(self, line: int, answer: object, choices: Sequence[str], labels: list[str]) -> None:
        """Add the answer of a row."""
        for form, indices in self.indices.items():
            indices.append(choice_index(answer, choices, labels, form))
        if labels and self.indices["label"][-1] < 0:
            self.labels[len(self.answers)] = labels
        self.answers.append(answer)
        self.lines.append(line)


class _TaskReader:
    """Reads the files of one task."""

    def __init__(self, name: str, files: Files, mapping: JsonObject, answer_as: str) -> None:
        self.name = name
        self.files = files
        self.mapping = mapping
        self.answer_as = answer_as
        self.bad = BadRows()
        self.task = Task(name, name, cutoff=DEFAULT_CUTOFF)

    def read(self) -> ReadTask:
        """The rows of every split.

        Raises:
            UserError: a column is missing, or the answers can be read in two ways.
        """
        forms: dict[Path, Form] = {}
        for split, paths in self.files.items():
            for path in paths:
                try:
                    forms[path] = self._form(path)
                except UserError as error:
                    known = split != "train" and "train" in self.files and "has no column" in error.messages[0]
                    raise UserError(*error.messages, *([NOTHING_TO_SCORE.format(path)] if known else [])) from error
        kinds = {form.kind: path for path, form in forms.items()}
        if len(kinds) > 1:
            listed = ", ".join(f"{path} holds {forms[path].title}" for path in kinds.values())
            raise UserError(
                f"{self.name}: the files of a task must be of one form: {listed}; name the columns with data.columns"
            )
        kind = next(iter(kinds))
        self.task = replace(self.task, kind=kind)
        read = {
            split: [
                self._read_file(path, forms[path], split, f"{split}/{number}" if len(paths) > 1 else split)
                for number, path in enumerate(paths)
            ]
            for split, paths in self.files.items()
        }
        answers = self._answer_form([file for files in read.values() for file in files]) if kind == "choice" else None
        splits: dict[str, RowTable] = {}
        lines: list[str] = []
        notes: list[str] = []
        for split, files in read.items():
            tables = [file.builder.table(self._indices(file, answers) if answers else None) for file in files]
            splits[split], repeated = unique_ids(RowTable.joined(tables))
            if repeated:
                name = files[0].form.shown("id")
                notes.append(
                    f"{self.name}: {repeated:,} of {len(splits[split]):,} {split} rows share their id ('{name}') with "
                    "another: they are numbered, as in 7/1 and 7/2"
                )
            lines.append(f"{self.name}: {_describe(files, splits[split], split, answers)}")
        return ReadTask(self.task, dict(splits), self.bad, notes, lines)

    def _form(self, path: Path, late: Collection[str] = ()) -> Form:
        """The form of a file, by the columns of its first records and `late` ones."""
        file = RecordFile(path)
        heads: dict[frozenset[str], list[JsonObject]] = {}

        def head(columns: Collection[str]) -> list[JsonObject]:
            wanted = frozenset(columns)
            if wanted not in heads:
                records = islice(file.records(wanted), HEAD)
                heads[wanted] = [record for _, record in records if isinstance(record, dict)]
            return heads[wanted]

        try:
            columns = list(dict.fromkeys([*file.columns(), *late]))
            if columns and head(columns[:1]):
                return recognise(columns, self.mapping, head)
        except UserError as error:
            # What the readers of files raise names them.
            named = (message if str(path) in message else f"{path}: {message}" for message in error.messages)
            table = data_format(path)[0] in (".csv", ".tsv") and not self.mapping
            raise UserError(*(text + HEADER_HINT * (table and "Valid: " in text) for text in named)) from error
        if next(file.records(), None) is None:
            raise UserError(f"{path}: has no rows")
        # Records that cannot be read, each of which is reported.
        return Form("choice", "rows", {name: name for name in REQUIRED["choice"]})

    def _read_file(
        self, path: Path, form: Form, split: str, prefix: str, late: frozenset[str] = frozenset()
    ) -> _ReadFile:
        file = _ReadFile(path, form, RowTableBuilder(self.name, KINDS[form.kind]))
        read = form.reader()
        bad = BadRows()
        names = list(dict.fromkeys([*RecordFile(path).columns(), *late]))
        file.unread = [name for name in names if name not in form.roots]
        columns = set(names)
        for line, raw in RecordFile(path).records(form.roots):
            if isinstance(raw, dict) and not raw.keys() <= columns:
                new = raw.keys() - columns
                columns |= new
                wider = self._wider_form(path, line, form, columns, new)
                if wider.columns != form.columns:
                    return self._read_file(path, wider, split, prefix, frozenset(columns))
            try:
                if isinstance(raw, ValueError):
                    raise raw
                record = read(raw, f"{prefix}/{line}") if isinstance(raw, dict) else raw
                if isinstance(record, dict):
                    _check_split(record.pop("split", None), split)
                answer, labels = None, []
                if form.kind == "choice" and isinstance(record, dict) and record.get("answer") is not None:
                    answer, labels = record["answer"], record.pop("labels")
                    # Found when all answers of the task are known.
                    record["answer"] = 0
                row = parse_row(self.task, record)
                if isinstance(row, Row):
                    file.add_answer(line, answer, row.choices, labels)
                file.builder.add(row)
            except ValueError as error:
                message = form.rename_fields(str(error))
                bad.add(path, line, RowError(message, getattr(error, "kind", None)))
        self.bad.update(bad)
        return file

    def _wider_form(self, path: Path, line: int, form: Form, columns: Collection[str], new: Collection[str]) -> Form:
        """The form of a file with columns that the rows before this line do not have."""
        if not any(map(may_be_field, new)):
            return form
        wider = self._form(path, sorted(columns))
        if wider.kind != form.kind:
            raise UserError(
                f"{path}:{line}: has {', '.join(sorted(new))}, which no row before it has: with it the file holds "
                f"{wider.title}, without it {form.title}; write files of one form, or name columns with data.columns"
            )
        return wider

    def _answer_form(self, files: Sequence[_ReadFile]) -> str:
        """The form of the task's answers."""
        if self.answer_as != "auto":
            return self.answer_as
        indices = {
            form: numpy.concatenate([numpy.array(file.indices[form], numpy.int8) for file in files])
            for form in ANSWER_FORMS
        }
        try:
            return answer_form(indices)
        except AmbiguousAnswersError as error:
            row = error.row
            ends = list(accumulate(len(file.answers) for file in files))
            number = next(number for number, end in enumerate(ends) if row < end)
            file, row = files[number], row - (ends[number] - len(files[number].answers))
            (first, one), (second, other) = ((form, file.indices[form][row] + 1) for form in error.forms)
            raise UserError(
                f"{file.path}:{file.lines[row]}: the answers ('{file.form.shown('answer')}') can be read as {first} "
                f"or {second}, which differ: here {quoted(file.answers[row])} is choice {one} or choice {other}; say "
                f"which with data.answer_as={first} or data.answer_as={second} (index is from 0, number from 1)"
            ) from error

    def _indices(self, file: _ReadFile, answers: str) -> numpy.ndarray:
        """The index of each row's answer; the rows whose answer names no choice are bad."""
        indices = numpy.array(file.indices[answers], numpy.int32)
        name = file.form.shown("answer")
        for row in map(int, numpy.flatnonzero(indices < 0)):
            answer = file.answers[row]
            labels = file.labels.get(row, [])
            reason = _REASONS["label" if answers == "text" and labels else answers]
            if labels and answers in ("label", "text"):
                reason += f" {', '.join(labels)}"
            shown = quoted(answer) if isinstance(answer, str) else f"{shortened(str(answer))} ({type_name(answer)})"
            if isinstance(answer, str) and len(letter := answer.strip()) == 1 and not letter.isascii():
                shown += f" ({unicodedata.name(letter, 'no letter')})"
            self.bad.add(file.path, file.lines[row], RowError(f"'{name}' {reason}, is {shown}", f"'{name}' {reason}"))
        return indices


def _check_split(value: object, split: str) -> None:
    """Refuse a row that is said to be of another split than its file."""
    said = named_split(value) if isinstance(value, str) else None
    if said not in (None, split):
        raise RowError(
            f"'split' says {said}, and the rows of this file are read as {split}; write the rows of each split to a "
            "file of its name, or leave the column aside with data.columns={split: null}"
        )


# What an answer that names no choice should have been.
_REASONS = {
    "label": "must be one of the labels",
    "text": "is none of the choices",
    "letter": "must be the letter of a choice, from A",
    "index": "must be the index of a choice, from 0",
    "number": "must be the number of a choice, from 1",
}
_PLURALS = {form: f"{form}s" for form in ANSWER_FORMS} | {"index": "indices from 0", "number": "numbers from 1"}


def _describe(files: Sequence[_ReadFile], rows: RowTable, split: str, answers: str | None) -> str:
    """What the files of a split were taken for, in one line."""
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    form = files[0].form
    line = f"{files[0].path.name}{more}: {len(rows):,} {form.title}"
    if answers:
        line += f", answers as {_PLURALS[answers]}"
    if "messages" in form.columns and len(rows):
        turns = sum(1 + len(row.history) for row in rows if isinstance(row, Reply)) / len(rows)
        line += f", {turns:.1f} turns on average"
    unread = list(dict.fromkeys(name for file in files for name in file.unread))
    more = f" and {len(unread) - LISTED_COLUMNS} more" if len(unread) > LISTED_COLUMNS else ""
    named = f"; columns not read: {', '.join(map(shortened, unread[:LISTED_COLUMNS]))}{more}" if unread else ""
    return f"{line}: {split}{named}"


def _divide(read: ReadTask, files: Files, data: DataConfig, training: bool, record: Record | None) -> ReadTask:
    """Set what of a task is scored and held out, and hold out a test where there is no file for it."""
    kind = read.task.kind
    scored = kind != "text" and (kind != "reply" or data.score_replies)
    validated = scored or kind == "text"
    task = replace(read.task, holdout=data.holdout if validated and "validation" not in files else 0.0, scored=scored)
    splits: dict[str, Rows] = dict(read.splits)
    notes = list(read.notes)
    errors = list(_too_few(read, files, task, training))
    # Bad rows are reported first.
    if errors and not read.bad.count:
        raise UserError(*errors)
    if training:
        if scored and "test" not in splits:
            splits["train"], splits["test"] = hold_out(splits["train"], data.holdout, "test")
    elif not scored:
        splits = {}
    elif "test" not in splits:
        (rows,) = splits.values()
        splits, note = _held_out(task.name, rows, data.holdout, record)
        notes.append(note)
    return ReadTask(task, splits, read.bad, notes, read.files)


def _held_out(name: str, rows: Rows, share: float, record: Record | None) -> tuple[dict[str, Rows], str]:
    """The rows of a file without a split that a trained run may be scored on."""
    if record is None:
        return (
            {"test": hold_out(rows, share, "test")[1]},
            f"{name}: {100 * share:g} % of the rows are scored as held out (data.holdout)",
        )
    unseen = numpy.flatnonzero(~numpy.isin(row_keys(rows), record.all))
    seen = len(rows) - len(unseen)
    if not len(unseen):
        raise UserError(f"{name}: the run was trained on all {len(rows):,} rows; there is nothing held out to score.")
    if not seen:
        return {"test": rows}, f"{name}: all {len(rows):,} rows are scored; the run was trained on none of them"
    return (
        {"test": take(rows, unseen)},
        f"{name}: the {len(unseen):,} rows that the run was not trained on or chosen by are scored, of {len(rows):,}",
    )


def _too_few(read: ReadTask, files: Files, task: Task, training: bool) -> Iterator[str]:
    """Messages about files without rows, and about too few rows to hold some out."""
    for split, rows in read.splits.items():
        path = files[split][0]
        if not len(rows):
            yield f"{path}: has no rows"
        elif training and split == "train":
            purposes = [] if "test" in files or not task.scored else ["test"]
            purposes += ["validation"] if task.holdout else []
            # Equal rows stay together.
            different = len(numpy.unique(row_keys(rows)))
            if different <= len(purposes):
                equal = f", of which {different} differ" if different < len(rows) else ""
                yield (
                    f"{path}: has {len(rows)} rows{equal}; a share of them is held out for "
                    f"{' and for '.join(purposes)} (data.holdout), which needs {len(purposes) + 1} at least. Add rows, "
                    "or a file for each split."
                )
