"""A cache of the user's rows as they were read: a second run on the same large files does not read them again.

A folder is named after everything the rows depend on: the files' bytes, the map of columns, the code that reads.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from mosld.common.files import cache_directory
from mosld.config.local_files import Files
from mosld.data.cache import code_digest, read_cached, write_cached
from mosld.data.reading.bad_rows import BadRows
from mosld.data.reading.row_table import KINDS, RowTable
from mosld.data.reading.sources import ReadTask
from mosld.data.tasks import Task

# Fewer rows are read again as fast.
MIN_ROWS = 20_000
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
    task = read_cached(folder, lambda whole: _load(whole, name))
    if task is None:
        task = read()
        if sum(map(len, task.splits.values())) >= MIN_ROWS and not task.bad.count:
            # The run does not depend on the cache: the disk may be full, the folder read-only.
            with suppress(OSError):
                write_cached(folder, partial(_save, task), MAX_FOLDERS)
    return task


def _version(name: str, files: Files, settings: Sequence[object]) -> str:
    digest = hashlib.sha256(repr((name, settings)).encode() + code_digest())
    for split, paths in files.items():
        for path in paths:
            digest.update(f"{split}/{path.name}/".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _save(task: ReadTask, folder: Path) -> None:
    for split, rows in task.splits.items():
        assert isinstance(rows, RowTable)
        rows.write(folder / f"{split}.arrow")
    described = {
        "kind": task.task.kind,
        "cutoff": task.task.cutoff,
        "notes": task.notes,
        "files": task.files,
        "splits": list(task.splits),
    }
    (folder / "task.json").write_text(json.dumps(described), encoding="utf-8")


def _load(folder: Path, name: str) -> ReadTask:
    described = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    kind = KINDS[described["kind"]]
    splits = {split: RowTable.read(folder / f"{split}.arrow", name, kind) for split in described["splits"]}
    task = Task(name, name, cutoff=described["cutoff"], kind=described["kind"])
    return ReadTask(task, splits, BadRows(), described["notes"], described["files"])
