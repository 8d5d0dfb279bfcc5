"""The data stage: from the config to checked rows, every problem reported at once, before a model loads."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mosld.config import DataConfig, SourceConfig, UserError
from mosld.data.rows import AnyRow, Row
from mosld.data.sources import read_splits
from mosld.data.splits import TaskData, split_rows
from mosld.data.tasks import TASKS


@dataclass(frozen=True)
class Dataset:
    """The tasks of one run.

    Attributes:
        tasks: rows by task, in the config's order.
        notes: what a reader should know of the rows (skipped ones, leaks), one line each.
        source: name of the source, for results and tables.
    """

    tasks: dict[str, TaskData]
    source: str
    notes: list[str] = field(default_factory=list)

    @property
    def train(self) -> list[AnyRow]:
        """All train rows, task after task."""
        return [row for data in self.tasks.values() for row in data.train]

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits over every row of every split."""
        digest = hashlib.sha256()
        for data in self.tasks.values():
            for rows in (data.train, data.validation, data.test):
                digest.update(json.dumps([dataclasses.astuple(row) for row in rows]).encode())
        return digest.hexdigest()[:16]

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by task and split."""
        return {
            name: {split: len(getattr(data, split)) for split in ("train", "validation", "test")}
            for name, data in self.tasks.items()
        }

    def summary(self) -> list[str]:
        """Counts and notes as lines for a person."""
        counts = [
            f"{task}: {found['train']} train, {found['validation']} validation, {found['test']} test rows"
            for task, found in self.counts().items()
        ]
        return [*counts, *(f"note: {note}" for note in self.notes)]

    def describe(self) -> dict[str, Any]:
        """What results.json says of the data; no row is part of it."""
        return {
            "source": self.source,
            "tasks": list(self.tasks),
            "fingerprint": self.fingerprint,
            "counts": self.counts(),
            "notes": self.notes,
        }


def load_dataset(data: DataConfig, source: SourceConfig, training: bool = True) -> Dataset:
    """Read and check the rows of every task; without `training`, of the test split alone.

    Raises:
        UserError: a task that the source lacks, a missing file, or bad rows (all of them, as file:line: reason).
    """
    published = read_splits(data.tasks, source, training)
    bad = [problem for _, problems in published.values() for problem in problems]
    if bad and source.on_bad_row == "error":
        raise UserError(*bad, f"{len(bad)} bad rows: mend them, or leave them out with source.on_bad_row=skip.")
    notes = [f"{len(bad)} bad rows left out (source.on_bad_row=skip), the first: {bad[0]}"] if bad else []
    tasks = {name: split_rows(TASKS[name], splits, data.limit) for name, (splits, _) in published.items()}
    empty = [
        f"{name}: no rows for {split} in {', '.join(f'{part}.jsonl' for part in published[name][0])}"
        for name, task in tasks.items()
        for split in ("train", "validation", "test")
        if (training or split == "test") and not getattr(task, split)
    ]
    if empty:
        raise UserError(*empty)
    notes += [note for task in tasks.values() for note in _oddities(task)]
    return Dataset(tasks, source.name, notes)


def _oddities(data: TaskData) -> Iterator[str]:
    """Faults that published sets have and that do not stop a run, with a count."""
    name = data.task.name
    rows = [*data.train, *data.validation, *data.test]
    twins = sum(isinstance(row, Row) and len(set(row.choices)) < len(row.choices) for row in rows)
    if twins:
        yield f"{name}: {twins} rows have two equal choices"
    seen = _items(data.train)
    leaks = sum(item in seen for item in _items(data.test, unique=False))
    if leaks:
        yield f"{name}: {leaks} of {len(data.test)} test items also stand in train"


def _items(rows: Iterable[AnyRow], unique: bool = True) -> set | list:
    found = [tuple(" ".join(text.lower().split()) for text in row.texts) for row in rows]
    return set(found) if unique else found
