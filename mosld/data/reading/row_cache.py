"""A cache of the user's rows as they were read: a second run on the same large files does not read them again.

A folder is named after everything the rows depend on: the files' bytes, the map of columns, the code that reads. A
damaged one is replaced.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow

from mosld.common.files import CACHE_MANIFEST, build_once, cache_directory, damage
from mosld.config.local_files import Files
from mosld.data.reading.bad_rows import BadRows
from mosld.data.reading.row_table import KINDS, RowTable
from mosld.data.reading.sources import ReadTask
from mosld.data.tasks import Task

# Fewer rows are read again as fast.
MIN_ROWS = 20_000
# The folders that were not used for longest are deleted.
MAX_FOLDERS = 16


def cached_rows(name: str, files: Files, settings: Sequence[object], read: Callable[[], ReadTask]) -> ReadTask:
    """The rows of a task, from the cache where they are known.

    Args:
        name: of the task.
        files: the files to read.
        settings: what else the rows depend on.
        read: reads the files.
    """
    folder = cache_directory() / "rows" / _version(name, files, settings)
    cached = _load(folder, name)
    if cached is None:
        cached = read()
        if sum(map(len, cached.splits.values())) >= MIN_ROWS and not cached.bad.count:
            shutil.rmtree(folder, ignore_errors=True)
            _save(folder, cached)
    return cached


def _version(name: str, files: Files, settings: Sequence[object]) -> str:
    digest = hashlib.sha256(repr((name, settings)).encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    for split, paths in files.items():
        for path in paths:
            digest.update(f"{split}/{path.name}/".encode() + _sha256(path))
    return digest.hexdigest()[:32]


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _save(folder: Path, task: ReadTask) -> None:
    def make(aside: Path) -> None:
        aside.mkdir(parents=True)
        for split, rows in task.splits.items():
            assert isinstance(rows, RowTable)
            rows.write(aside / f"{split}.arrow")
        described = {
            "kind": task.task.kind,
            "cutoff": task.task.cutoff,
            "notes": task.notes,
            "files": task.files,
            "splits": list(task.splits),
            "version": folder.name,
        }
        (aside / "task.json").write_text(json.dumps(described), encoding="utf-8")

    try:
        build_once(folder, make)
    except OSError:
        # The run does not depend on the cache: the disk may be full, the folder read-only.
        return
    for old in sorted(folder.parent.iterdir(), key=lambda path: -path.stat().st_mtime)[MAX_FOLDERS:]:
        shutil.rmtree(old, ignore_errors=True)


def _load(folder: Path, name: str) -> ReadTask | None:
    """The rows in a folder; None where it is missing or damaged."""
    try:
        described = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        if any(damage(folder, CACHE_MANIFEST)) or described["version"] != folder.name:
            return None
        kind = KINDS[described["kind"]]
        splits = {split: RowTable.read(folder / f"{split}.arrow", name, kind) for split in described["splits"]}
        task = Task(name, name, cutoff=described["cutoff"], kind=described["kind"])
        folder.touch()
        return ReadTask(task, splits, BadRows(), described["notes"], described["files"])
    except (OSError, ValueError, KeyError, pyarrow.ArrowException):
        return None
