"""Where the rows of the benchmarks come from: the bundled generator, the hub, or a directory of the user's.

All three are directories of <task>/<split>.jsonl: generated and downloaded rows are written to the cache once, and then
read and checked like the user's.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from mosld.common.errors import UserError, nearest
from mosld.common.files import build_once, cache_directory
from mosld.config.schema import SourceConfig
from mosld.data import bundled
from mosld.data.hub import hub_root
from mosld.data.parsing import parse_row
from mosld.data.records import parse_rows, read_records, write_records
from mosld.data.rows import AnyRow
from mosld.data.splits import needed_splits
from mosld.data.tasks import TASKS, Task

# By task: the rows of each published split, and a message for each bad row.
Published = dict[str, tuple[dict[str, list[AnyRow]], list[str]]]


def read_splits(tasks: Sequence[str], source: SourceConfig, training: bool, shots: int = 0) -> Published:
    """Read the published splits that each task needs.

    Raises:
        UserError: the directory, a task or a file is missing.
    """
    root = _root(tasks, source)
    if not root.is_dir():
        raise UserError(f"source.root={source.root}: no such directory.")
    files = {
        name: {split: root / name / f"{split}.jsonl" for split in needed_splits(task, training, shots)}
        for name, task in TASKS.items()
    }
    complete = sorted(name for name in files if all(path.is_file() for path in files[name].values()))
    incomplete = [name for name in tasks if name not in complete]
    if incomplete:
        missing = [
            f"{name}: {path} is missing" for name in incomplete for path in files[name].values() if not path.is_file()
        ]
        others = [name for name in tasks if name in complete]
        advice = f"leave them out with data.tasks=[{','.join(others)}]" if others else nearest(incomplete[0], complete)
        raise UserError(f"source.root={source.root} lacks {', '.join(incomplete)}; {advice}", *missing)
    published: Published = {}
    for name in tasks:
        errors: list[str] = []
        rows = {split: read_rows(path, TASKS[name], errors) for split, path in files[name].items()}
        published[name] = rows, errors
    return published


def read_rows(path: Path, task: Task, errors: list[str]) -> list[AnyRow]:
    """Read the rows of a benchmark's file; ``file:line: reason`` is appended to `errors` for each bad one."""
    return parse_rows(path, read_records(path), lambda _, record: parse_row(task, record), errors)


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
