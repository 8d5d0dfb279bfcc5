"""The user's own files: which tasks lie below `source.root`, and which file holds each split of a task.

root/<task>/train.csv, root/<task>/test.csv     a folder per task: train, validation, test
root/<task>.jsonl                               a file per task, of which shares are held out
root/train.csv, root/test.csv                   one task, named after the folder
root = my/questions.parquet                     one task, named after the file
"""

import re
from pathlib import Path

from mosld.common.errors import UserError, nearest

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
SPLITS = ("train", "validation", "test")

# The file of each split of a task.
Files = dict[str, Path]


def own_files(root: Path) -> dict[str, Files]:
    """The files by task. A file that will be divided into splits is listed as train.

    Raises:
        UserError: `root` does not exist, holds no data, or its files are ambiguous.
    """
    if root.is_file():
        if root.suffix not in SUFFIXES:
            raise UserError(f"source.root={root}: {_unreadable(root)}")
        return _check_task_names({root.stem: {"train": root}})
    if not root.is_dir():
        raise UserError(f"source.root={root}: no such file or directory.")
    loose_files = _data_files(root)
    if any(path.stem in SPLITS for path in loose_files):
        return _check_task_names({root.resolve().name: _splits(loose_files)})
    folders = {path.name: _data_files(path) for path in sorted(root.iterdir()) if path.is_dir()}
    tasks = {name: _splits(files) for name, files in folders.items() if files}
    for path in loose_files:
        if path.stem in tasks:
            raise UserError(f"{path}: the task {path.stem} has another file: {next(iter(tasks[path.stem].values()))}.")
        tasks[path.stem] = {"train": path}
    if not tasks:
        others = [path for path in sorted(root.rglob("*")) if path.is_file()]
        hint = f" {others[0].name}: {_unreadable(others[0])}" if others else ""
        suffix = f".{{{','.join(suffix[1:] for suffix in SUFFIXES)}}}"
        raise UserError(
            f"source.root={root}: holds no data; put <task>/train{suffix} there, or one <task>{suffix}.{hint}"
        )
    return _check_task_names(tasks)


def _data_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES]


def _splits(paths: list[Path]) -> Files:
    files: Files = {}
    for path in paths:
        if path.stem not in SPLITS:
            raise UserError(f"{path}: is no split; name the files of a task train, validation or test.")
        if path.stem in files:
            raise UserError(f"{path}: the split {path.stem} has another file: {files[path.stem].name}. Keep one.")
        files[path.stem] = path
    return files


def _check_task_names(tasks: dict[str, Files]) -> dict[str, Files]:
    invalid = [name for name in tasks if not re.fullmatch(r"[\w-][\w.-]*", name)]
    if invalid:
        raise UserError(
            *(f"'{name}': names a task, and so files; letters, digits, '_', '-' and '.' alone." for name in invalid)
        )
    return tasks


def _unreadable(path: Path) -> str:
    return f"the format follows from the suffix; {nearest(path.suffix, SUFFIXES)}"
