"""Where rows come from: the project's own generator, or a directory of the user's.

Both are directories of <task>/<split>.jsonl: the generator's rows are written once into the cache, and then read and
checked like anybody's.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mosld.common.errors import UserError, nearest
from mosld.common.files import cache_directory
from mosld.config.schema import SourceConfig
from mosld.data import bundled
from mosld.data.hub import hub_root
from mosld.data.records import read_rows
from mosld.data.rows import AnyRow
from mosld.data.splits import needed_splits
from mosld.data.tasks import TASKS

Published = dict[str, tuple[dict[str, list[AnyRow]], list[str]]]


def read_splits(tasks: Sequence[str], source: SourceConfig, training: bool, shots: int = 0) -> Published:
    """By task, the rows of each published split that is needed, and a line for each bad row.

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
    held = sorted(name for name in files if all(path.is_file() for path in files[name].values()))
    lacking = [name for name in tasks if name not in held]
    if lacking:
        missing = [
            f"{name}: {path} is missing" for name in lacking for path in files[name].values() if not path.is_file()
        ]
        rest = [name for name in tasks if name in held]
        advice = f"leave them out with data.tasks=[{','.join(rest)}]" if rest else nearest(lacking[0], held)
        raise UserError(f"source.root={source.root} lacks {', '.join(lacking)}; {advice}", *missing)
    published: Published = {}
    for name in tasks:
        problems: list[str] = []
        published[name] = ({split: read_rows(path, name, problems) for split, path in files[name].items()}, problems)
    return published


def _root(tasks: Sequence[str], source: SourceConfig) -> Path:
    if source.name == "hub":
        return hub_root(tasks)
    return bundled_root() if source.name == "bundled" else Path(source.root or "")


def bundled_root() -> Path:
    """The directory with the generated rows, made on first use and again whenever the generator changes."""
    target = cache_directory() / f"bundled-{_generator_hash()}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "rows"
        for task in bundled.TASKS:
            (made / task).mkdir(parents=True)
            for split, rows in bundled.generate(task).items():
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                (made / task / f"{split}.jsonl").write_text(text, encoding="utf-8")
        try:
            made.rename(target)
        except OSError:  # another process was faster; its rows are the same
            shutil.rmtree(made, ignore_errors=True)
            if not target.is_dir():
                raise
    return target


def _generator_hash() -> str:
    digest = hashlib.sha256()
    folder = Path(bundled.__file__).parent
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.yaml")]):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
