"""The user's own files: which tasks lie below `source.root`, and in which file each split of a task is.

root/<task>/train.csv, root/<task>/test.csv     a folder a task: train, validation, test
root/<task>.jsonl                               a file a task, of which shares are held out
root/train.csv, root/test.csv                   one task, named after the folder
root = my/questions.parquet                     one task, named after the file
"""

import re
from pathlib import Path

from mosld.common.errors import UserError, nearest

FORMS = (".jsonl", ".csv", ".tsv", ".parquet")
SPLITS = ("train", "validation", "test")

Files = dict[str, Path]


def own_files(root: Path) -> dict[str, Files]:
    """By task, the file of each split. A file that is to be divided is its train split.

    Raises:
        UserError: there is no such place, or what lies there cannot be told apart.
    """
    if root.is_file():
        if root.suffix not in FORMS:
            raise UserError(f"source.root={root}: {_unread(root)}")
        return _named({root.stem: {"train": root}})
    if not root.is_dir():
        raise UserError(f"source.root={root}: no such file or directory.")
    data = [path for path in sorted(root.iterdir()) if path.suffix in FORMS]
    if any(path.stem in SPLITS for path in data):
        return _named({root.resolve().name: _splits(data)})
    folders = {path.name: _data_files(path) for path in sorted(root.iterdir()) if path.is_dir()}
    found = {name: _splits(files) for name, files in folders.items() if files}
    for path in data:
        if path.stem in found:
            raise UserError(f"{path}: the task {path.stem} has another file: {next(iter(found[path.stem].values()))}.")
        found[path.stem] = {"train": path}
    if not found:
        others = [path for path in sorted(root.rglob("*")) if path.is_file()]
        hint = f" {others[0].name}: {_unread(others[0])}" if others else ""
        raise UserError(
            f"source.root={root}: holds no data; put <task>/train{_either()} there, or one <task>{_either()}.{hint}"
        )
    return _named(found)


def _data_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix in FORMS]


def _splits(files: list[Path]) -> Files:
    found: Files = {}
    for path in files:
        if path.stem not in SPLITS:
            raise UserError(f"{path}: is no split; a file of a task is named train, validation or test. Rename it.")
        if path.stem in found:
            raise UserError(f"{path}: the split {path.stem} has another file: {found[path.stem].name}. Keep one.")
        found[path.stem] = path
    return found


def _named(found: dict[str, Files]) -> dict[str, Files]:
    wrong = [name for name in found if not re.fullmatch(r"[\w-][\w.-]*", name)]
    if wrong:
        raise UserError(
            *(f"'{name}': names a task, and so files; letters, digits, '_', '-' and '.' alone." for name in wrong)
        )
    return found


def _either() -> str:
    return f".{{{','.join(form[1:] for form in FORMS)}}}"


def _unread(path: Path) -> str:
    return f"a file is read by its ending; {nearest(path.suffix, FORMS)}"
