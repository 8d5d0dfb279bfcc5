"""The data stage: from the config to checked rows, every problem reported at once, before a model loads."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mosld.common.errors import UserError, format_value
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.local import read_own
from mosld.data.rows import AnyRow, Row
from mosld.data.sources import Published, read_splits
from mosld.data.splits import TaskData, item, items, split_rows
from mosld.data.subjects import examples_of
from mosld.data.tasks import TASKS, Task

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """The tasks of one run.

    Attributes:
        tasks: rows by task, in the config's order.
        notes: what a reader should know of the rows (skipped ones, duplicate_choices, leaks), one line each.
        source: name of the source, for results and tables.
        policy: the split policy.
        leaks: by task, test items that also stand in the train rows of any task; None where no train row was read.
    """

    tasks: dict[str, TaskData]
    source: str
    notes: list[str] = field(default_factory=list)
    policy: str = "official"
    leaks: dict[str, int] | None = None

    @property
    def train(self) -> list[AnyRow]:
        """All train rows, task after task."""
        return [row for data in self.tasks.values() for row in data.train]

    @property
    def known(self) -> dict[str, Task]:
        """The tasks themselves."""
        return {name: data.task for name, data in self.tasks.items()}

    @property
    def examples(self) -> dict[str, list[AnyRow]]:
        """By subject, the rows that stand solved before a question."""
        return {name: rows for data in self.tasks.values() for name, rows in data.examples.items()}

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits over every row of every split."""
        return self._digests[0]

    @property
    def fingerprints(self) -> dict[str, str]:
        """As `fingerprint`, of each task alone: the same in a mixture and on its own."""
        return self._digests[1]

    @cached_property
    def _digests(self) -> tuple[str, dict[str, str]]:
        """Of all tasks and of each, in one pass over the rows: thousands of them, at every start."""
        whole, each = hashlib.sha256(), {name: hashlib.sha256() for name in self.tasks}
        for name, data in self.tasks.items():
            for rows in (data.train, data.validation, data.test):
                text = json.dumps([[getattr(row, part) for part in row.__slots__] for row in rows]).encode()
                whole.update(text)
                each[name].update(text)
        return whole.hexdigest()[:16], {name: one.hexdigest()[:16] for name, one in each.items()}

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by task and split."""
        return {name: {split: len(getattr(data, split)) for split in SPLITS} for name, data in self.tasks.items()}

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
            "fingerprints": self.fingerprints,
            "split_policy": self.policy,
            **self.trained_on_tests(),
            "notes": self.notes,
        }

    def trained_on_tests(self) -> dict[str, Any]:
        """Rows by task and split, test items that stand in train, and train rows left out for that."""
        dropped = {name: data.dropped for name, data in self.tasks.items() if data.dropped}
        return {"counts": self.counts(), "leaks": self.leaks, "dropped_leaks": dropped}


def leak_notes(data: Mapping[str, Any]) -> list[str]:
    """What a reader of scores should know: test items that were trained on, and train rows left out for that.

    `data` is what `Dataset.trained_on_tests` gives, or what results.json has kept of it.
    """
    found = [
        f"{task}: {count} of {data['counts'][task]['test']} test items also stand in train"
        for task, count in (data.get("leaks") or {}).items()
        if count
    ]
    dropped = data.get("dropped_leaks") or {}
    return [*found, *(f"{task}: {count} train rows left out that stand in a test" for task, count in dropped.items())]


def load_dataset(data: DataConfig, source: SourceConfig, training: bool = True, shots: int = 0) -> Dataset:
    """Read and check the rows of every task; without `training`, of the test split alone.

    Args:
        data: which tasks, and how they are divided.
        source: where their rows come from.
        training: whether train and validation rows are wanted.
        shots: solved examples before each question, of tasks that have some.

    Raises:
        UserError: a task that the source lacks, a missing file, or bad rows (all of them, as file:line: reason).
    """
    tasks, published = _read(data, source, training, shots)
    bad = [problem for _, problems in published.values() for problem in problems]
    if bad and source.on_bad_row == "error":
        raise UserError(*bad, f"{len(bad)} bad rows: mend them, or leave them out with source.on_bad_row=skip.")
    notes = [f"{len(bad)} bad rows left out (source.on_bad_row=skip), the first: {bad[0]}"] if bad else []
    rows = {name: found for name, (found, _) in published.items()}
    tests = [row for name, task in tasks.items() if task.scored for row in rows[name][task.test_split]]
    leaked = items(tests) if training and data.drop_leaks else set()
    found = {
        name: split_rows(task, rows[name], _limit(name, data), data.split_policy, leaked)
        for name, task in tasks.items()
    }
    _require_rows(found, rows, data, source, training)
    if shots:
        found = {
            name: replace(task, examples=examples_of(task.task, rows[name], shots)) for name, task in found.items()
        }
    notes += [note for task in found.values() for note in _twins(task)]
    dataset = Dataset(found, source.name, notes, data.split_policy, _leaks(found) if training else None)
    return replace(dataset, notes=[*notes, *leak_notes(dataset.trained_on_tests())])


def _read(data: DataConfig, source: SourceConfig, training: bool, shots: int) -> tuple[dict[str, Task], Published]:
    """The tasks, with the cutoff that is set, and what is published of them."""
    untrained = [name for name in data.tasks if data.kind == "benchmarks" and training and not TASKS[name].trained]
    if untrained:
        raise UserError(
            f"data.tasks={format_value(data.tasks)}: {untrained[0]} is for evaluation alone; train on other tasks, "
            f"then: python -m mosld.eval run=RUN data={untrained[0]}"
        )
    if data.kind == "own":
        tasks, published = read_own(data, source, training)
    else:
        tasks = {name: TASKS[name] for name in data.tasks}
        published = read_splits(data.tasks, source, training, shots)
    if not training and not any(task.scored for task in tasks.values()):
        raise UserError(f"data.tasks={format_value(list(tasks))}: is trained on alone; there is nothing to score.")
    if data.cutoff is not None:
        tasks = {name: replace(task, cutoff=data.cutoff) for name, task in tasks.items()}
    return tasks, published


def _limit(name: str, data: DataConfig) -> int | None:
    """Most train rows of a task."""
    given = [data.limit, data.n_openorca if name == "openorca" else None]
    return min((count for count in given if count is not None), default=None)


def _require_rows(
    found: dict[str, TaskData],
    rows: dict[str, dict[str, list[AnyRow]]],
    data: DataConfig,
    source: SourceConfig,
    training: bool,
) -> None:
    """Refuse splits without rows, and fewer rows of openorca than are asked for."""
    place = source.root or f"the {source.name} source"
    wanted = {True: SPLITS if training else ("test",), False: ("train",) if training else ()}
    faults = [
        f"{name}: no rows for {split} in {', '.join(f'{part}.jsonl' for part in rows[name])} of {place}"
        for name, task in found.items()
        for split in wanted[task.task.scored]
        if not getattr(task, split)
    ]
    have = len(rows["openorca"]["train"]) if training and "openorca" in rows else 0
    if have and have < (data.n_openorca or 0):
        faults.append(f"data.n_openorca={data.n_openorca}: {place} has {have} rows of openorca; ask for no more.")
    if faults:
        raise UserError(*faults)


def _twins(data: TaskData) -> Iterator[str]:
    """Rows with equal choices: a fault of published sets that does not stop a run, with its count."""
    rows = [*data.train, *data.validation, *data.test]
    duplicate_choices = sum(isinstance(row, Row) and len(set(row.choices)) < len(row.choices) for row in rows)
    if duplicate_choices:
        yield f"{data.task.name}: {duplicate_choices} rows have two equal choices"


def _leaks(tasks: dict[str, TaskData]) -> dict[str, int]:
    """By task that is scored, how many test items stand in the train rows of any task."""
    seen = items(row for data in tasks.values() for row in data.train)
    return {name: sum(item(row) in seen for row in data.test) for name, data in tasks.items() if data.task.scored}
