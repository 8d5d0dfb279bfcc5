"""From the data config to checked rows: every error is reported at once, before a model loads."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy

from mosld.common.errors import UserError, format_value
from mosld.common.files import JsonObject
from mosld.common.terminal import counted
from mosld.config.local_files import SPLITS
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.leaks import Record, count_leaks, joined_keys, leak_notes, record_of
from mosld.data.reading.sources import ReadTask, read_splits
from mosld.data.rows import AnyRow, ColumnarRows, Reply, Row, Solution
from mosld.data.splits import NO_KEYS, JoinedRows, Rows, TaskData, split_rows, without
from mosld.data.subjects import solved_examples
from mosld.data.tasks import TASKS, Task

# The fields of each kind of row, in the order of the fingerprint.
FIELDS = {kind: [field.name for field in fields(kind)] for kind in (Row, Solution, Reply)}


@dataclass(frozen=True)
class Dataset:
    """The tasks of one run.

    Attributes:
        tasks: rows by task, in the config's order.
        source: name of the source, for results and tables.
        notes: what a user should know about the rows (skipped rows, equal choices, leaks), one line each.
        policy: the split policy.
        leaks, other_leaks: how many rows stand in two splits, see `count_leaks`.
        files: of the user's own tasks, what each file was taken for, one line each.
        record: which rows the run is trained on; None where that is not known.
    """

    tasks: dict[str, TaskData]
    source: str
    notes: list[str] = field(default_factory=list)
    policy: str = "official"
    leaks: dict[str, int] | None = None
    other_leaks: dict[str, dict[str, int]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    record: Record | None = None

    @property
    def train(self) -> Rows:
        """All train rows, task after task."""
        parts = [data.train for data in self.tasks.values()]
        if any(isinstance(rows, ColumnarRows) for rows in parts):
            return JoinedRows(parts)
        return [row for rows in parts for row in rows]

    @property
    def known(self) -> dict[str, Task]:
        """The tasks without their rows."""
        return {name: data.task for name, data in self.tasks.items()}

    @property
    def examples(self) -> dict[str, list[AnyRow]]:
        """By subject, the solved examples before a question."""
        return {name: rows for data in self.tasks.values() for name, rows in data.examples.items()}

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits over every row of every split."""
        return self._digests[0]

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each task: the same in a mixture and on its own."""
        return self._digests[1]

    @cached_property
    def _digests(self) -> tuple[str, dict[str, str]]:
        whole = hashlib.sha256()
        by_task: dict[str, str] = {}
        for name, data in self.tasks.items():
            content = b"".join(map(_content, (data.train, data.validation, data.test)))
            whole.update(content)
            by_task[name] = hashlib.sha256(content).hexdigest()[:16]
        return whole.hexdigest()[:16], by_task

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by task and split."""
        return {name: {split: len(getattr(data, split)) for split in SPLITS} for name, data in self.tasks.items()}

    def summary(self) -> list[str]:
        """Counts and notes, one line each; an evaluation has no train and validation rows."""
        counts = [
            f"{task}: {', '.join(f'{rows[split]} {split}' for split in SPLITS if rows[split] or split == 'test')} rows"
            for task, rows in self.counts().items()
        ]
        return [*self.files, *counts, *(f"note: {note}" for note in self.notes)]

    def describe(self) -> JsonObject:
        """The part of results.json about the data; it holds no rows."""
        return {
            "source": self.source,
            "tasks": list(self.tasks),
            "fingerprint": self.fingerprint,
            "fingerprints": self.fingerprints,
            "split_policy": self.policy,
            **self.leak_counts(),
            "notes": self.notes,
        }

    def leak_counts(self) -> JsonObject:
        """Rows by task and split, how many of them stand in two splits, and train rows dropped for that reason."""
        dropped = {name: data.dropped for name, data in self.tasks.items() if data.dropped}
        known = {} if self.leaks is None else {"leaks": self.leaks}
        others = {"other_leaks": self.other_leaks} if self.other_leaks else {}
        return {"counts": self.counts(), **known, **others, "dropped_leaks": dropped}


def _content(rows: Rows) -> bytes:
    """What the fingerprint of a split is made of."""
    if isinstance(rows, ColumnarRows):
        return rows.fingerprint.encode()
    return json.dumps([_values(row) for row in rows]).encode()


def _values(row: AnyRow) -> list[object]:
    """All values of a row; those of a reply without earlier turns are what they were before turns were read."""
    values = [getattr(row, name) for name in FIELDS[type(row)]]
    return values[:-1] if isinstance(row, Reply) and not row.history else values


def load_dataset(
    data: DataConfig, source: SourceConfig, training: bool = True, shots: int = 0, record: Record | None = None
) -> Dataset:
    """Read and check the rows of every task; without `training`, of the test split only.

    Args:
        data: the tasks, and how they are split.
        source: where their rows come from.
        training: whether train and validation rows are wanted.
        shots: solved examples before each question, of tasks that have some.
        record: without `training`, the rows that the run was trained on.

    Raises:
        UserError: a task that the source lacks, a missing file, or bad rows (by kind, as file:line: reason).
    """
    read = _read(data, source, training, shots, record)
    bad = [message for task in read.values() for message in task.bad.messages]
    count = counted(sum(task.bad.count for task in read.values()), "bad row")
    if bad and source.on_bad_row == "error":
        raise UserError(*bad, f"{count}: correct what is wrong, or leave such rows out with source.on_bad_row=skip.")
    notes = [f"{count} left out (source.on_bad_row=skip), the first: {bad[0]}"] if bad else []
    notes += [note for task in read.values() for note in task.notes]
    tests = {name: task.splits[task.task.test_split] for name, task in read.items() if task.task.scored}
    keys = joined_keys(tests.values()) if data.drop_leaks else NO_KEYS
    split = {
        name: split_rows(task.task, task.splits, _limit(name, data), data.split_policy, data.drop_leaks, keys)
        for name, task in read.items()
    }
    if errors := list(_missing_rows(split, read, data, source, training)):
        raise UserError(*errors, *(notes[:1] if bad else []))
    if shots:
        split = {
            name: replace(task, examples=_solved_examples(task, read[name], shots, keys))
            for name, task in split.items()
        }
    notes += [note for task in split.values() for note in _duplicate_choices(task)]
    if training:
        record = record_of(split.values())
    dataset = Dataset(
        split,
        source.name,
        notes,
        data.split_policy,
        *count_leaks(split, record, training),
        [line for task in read.values() for line in task.files],
        record,
    )
    return replace(dataset, notes=[*notes, *leak_notes(dataset.leak_counts())])


def _read(
    data: DataConfig, source: SourceConfig, training: bool, shots: int, record: Record | None
) -> dict[str, ReadTask]:
    """Read the published rows of the tasks, and set the tasks' cutoff."""
    untrained = [name for name in data.tasks if data.kind == "benchmarks" and training and not TASKS[name].trained]
    if untrained:
        raise UserError(
            f"data.tasks={format_value(data.tasks)}: {untrained[0]} is for evaluation only; train on other tasks, then "
            f"python -m mosld.eval run=RUN data={untrained[0]}"
        )
    if data.kind == "own":
        # Arrow takes a while, and the benchmarks do without it.
        from mosld.data.reading.local import read_own

        read = read_own(data, source, training, record)
    else:
        read = read_splits(data.tasks, source, training, shots)
    if not training and not any(task.task.scored for task in read.values()):
        raise UserError(f"data.tasks={format_value(list(read))}: is for training only; there is nothing to score.")
    if data.cutoff is not None:
        read = {name: replace(task, task=replace(task.task, cutoff=data.cutoff)) for name, task in read.items()}
    return read


def _solved_examples(data: TaskData, read: ReadTask, shots: int, tests: numpy.ndarray) -> dict[str, list[AnyRow]]:
    """The solved examples of a task, none of which is one of the test items that are to be left out."""
    split = data.task.examples_split
    rows = {name: without(rows, tests) if name == split else rows for name, rows in read.splits.items()}
    return solved_examples(data.task, rows, shots)


def _limit(name: str, data: DataConfig) -> int | None:
    """The most train rows of a task; None: all."""
    limits = [data.limit, data.n_openorca if name == "openorca" else None]
    return min((limit for limit in limits if limit is not None), default=None)


def _missing_rows(
    tasks: Mapping[str, TaskData],
    read: Mapping[str, ReadTask],
    data: DataConfig,
    source: SourceConfig,
    training: bool,
) -> Iterator[str]:
    """Messages about splits without rows, and about fewer rows of openorca than the config asks for."""
    origin = source.root or f"the {source.name} source"
    for name, task in tasks.items():
        needed = (SPLITS if task.task.scored else ("train",)) if training else ("test",) if task.task.scored else ()
        for split in needed:
            if not len(getattr(task, split)):
                yield f"{name}: no rows for {split} in {', '.join(read[name].splits)} of {origin}"
    count = len(read["openorca"].splits["train"]) if training and "openorca" in read else 0
    if count and count < (data.n_openorca or 0):
        yield f"data.n_openorca={data.n_openorca}: {origin} has {count} rows of openorca; ask for no more."


def _duplicate_choices(data: TaskData) -> Iterator[str]:
    """A note with the number of rows that have two equal choices, which published sets do."""
    count = 0
    for rows in (data.train, data.validation, data.test):
        if isinstance(rows, ColumnarRows):
            count += rows.with_equal_choices()
        else:
            count += sum(isinstance(row, Row) and len(set(row.choices)) < len(row.choices) for row in rows)
    if count:
        yield f"{data.task.name}: {count:,} rows have two equal choices"
