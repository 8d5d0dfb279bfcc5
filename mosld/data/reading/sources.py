"""Where the rows of the benchmarks come from: the bundled generator, the hub, or a directory of the user's.

All three are directories of <task>/<split>.jsonl: generated and downloaded rows are written to the cache once, and then
read and checked like the user's.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mosld.common.errors import UserError, nearest
from mosld.common.files import build_once, cache_directory
from mosld.config.local_files import split_files
from mosld.config.schema import SourceConfig
from mosld.data import bundled
from mosld.data.reading.bad_rows import BadRows, RowError
from mosld.data.reading.hub import converted, hub_root
from mosld.data.reading.parsing import parse_row
from mosld.data.reading.records import RecordFile, write_records
from mosld.data.rows import AnyRow
from mosld.data.splits import Rows, needed_splits
from mosld.data.tasks import TASKS, Task


@dataclass(frozen=True)
class ReadTask:
    """What was read of a task.

    Attributes:
        task: the benchmark, or the user's own task.
        splits: its rows by published split.
        bad: the rows that cannot be used.
        notes: what a user should know about the rows, one line each.
        files: what each file was taken for, one line each.
    """

    task: Task
    splits: Mapping[str, Rows]
    bad: BadRows
    notes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def read_splits(tasks: Sequence[str], source: SourceConfig, training: bool, shots: int = 0) -> dict[str, ReadTask]:
    """Read the published splits that each task needs.

    Raises:
        UserError: the directory, a task or a file is missing.
    """
    root = _root(tasks, source)
    if not root.is_dir():
        raise UserError(f"source.root={source.root}: no such directory.")
    files = {
        name: {split: split_files(root / name, split) for split in needed_splits(task, training, shots)}
        for name, task in TASKS.items()
    }
    complete = sorted(name for name in files if all(files[name].values()))
    incomplete = [name for name in tasks if name not in complete]
    if incomplete:
        missing = [
            f"{name}: {root / name / split}.jsonl is missing"
            for name in incomplete
            for split, paths in files[name].items()
            if not paths
        ]
        others = [name for name in tasks if name in complete]
        advice = f"leave them out with data.tasks=[{','.join(others)}]" if others else nearest(incomplete[0], complete)
        raise UserError(f"source.root={source.root} lacks {', '.join(incomplete)}; {advice}", *missing)
    read: dict[str, ReadTask] = {}
    for name in tasks:
        bad = BadRows()
        rows = {split: read_rows(paths, TASKS[name], split, bad) for split, paths in files[name].items()}
        read[name] = ReadTask(TASKS[name], rows, bad)
    return read


def read_rows(paths: Sequence[Path], task: Task, split: str, bad: BadRows) -> list[AnyRow]:
    """The rows of a benchmark's split, in the project's columns or in those of the hub; bad ones are added to `bad`."""
    rows: list[AnyRow] = []
    number = 0
    for path in paths:
        first_lines: dict[str, int] = {}
        for line, record in RecordFile(path).records():
            try:
                if isinstance(record, ValueError):
                    raise record
                number += 1
                row = parse_row(task, converted(task, record, split, number - 1))
                if row.id in first_lines:
                    first = first_lines[row.id]
                    raise RowError(f"id '{row.id}' is already used in line {first}", "an id is used twice")
            except ValueError as error:
                bad.add(path, line, error)
                continue
            first_lines[row.id] = line
            rows.append(row)
    return rows


def _root(tasks: Sequence[str], source: SourceConfig) -> Path:
    if source.name == "hub":
        return hub_root(tasks)
    return bundled_root() if source.name == "bundled" else Path(source.root or "")


def bundled_root() -> Path:
    """The directory with the generated rows, built on first use and again whenever the generator changes."""
    version = hashlib.sha256()
    folder = Path(bundled.__file__).parent
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.yaml")]):
        version.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return build_once(cache_directory() / f"bundled-{version.hexdigest()[:12]}", _generate)


def _generate(root: Path) -> None:
    for task in bundled.TASKS:
        (root / task).mkdir(parents=True)
        for split, records in bundled.generate(task).items():
            write_records(root / task / f"{split}.jsonl", records)
