"""The user's own files: which tasks lie below `source.root`, and which files hold each split of a task.

root/law.jsonl                                  a file per task, of which shares are held out
root/law/train.csv, root/law/test.csv           a folder per task
root/law_train.csv, root/law_test.csv           the same in the names of the files
root/train/law.csv, root/test/law.csv           a folder per split
root/data/train-00000-of-00002.parquet          shards of a split: one task, named after the folder
root = my/questions.parquet                     one task, named after the file

A file is of a split if a word of its name, or the folder it is in, names one (`SPLIT_WORDS`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mosld.common.errors import UserError, closest, nearest

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
COMPRESSIONS = (".gz", ".zst")
SPLIT_WORDS = {
    "train": (
        "train", "training", "trn", "训练", "训练集", "訓練", "学習", "훈련", "обучение", "entrenamiento", "treino",
        "entrainement", "entraînement",
    ),
    "validation": (
        "validation", "valid", "val", "dev", "devel", "development", "eval", "evaluation", "验证", "验证集", "検証",
        "검증", "валидация", "validacion", "validación", "validação",
    ),
    "test": (
        "test", "tests", "testing", "tst", "heldout", "holdout", "测试", "测试集", "テスト", "테스트", "тест", "prueba",
        "teste",
    ),
}  # fmt: skip
SPLITS = tuple(SPLIT_WORDS)
# Words that say nothing about the task where they stand beside a split: test_data, train-set, part3.
FILLER_WORDS = ("data", "dataset", "set", "split", "file", "part", "shard", "chunk", "rows", "copy", "of", "old")
# Deeper folders are not searched.
MAX_DEPTH = 4
# What editors, notebooks and systems leave beside data, and what describes a set.
STRAY_NAMES = re.compile(
    r"[.~#].*|.*(~|#|\.(bak|tmp|swp|lock|part|crdownload))|__\w+__|__MACOSX|Thumbs\.db|desktop\.ini|_SUCCESS|_metadata"
    r"|_committed.*|_started.*|cache-\w+\.arrow|(dataset_infos?|dataset_dict|state|metadata|config|schema|croissant"
    r"|package(-lock)?)\.json",
    re.IGNORECASE,
)
# Files that nobody expects to be read as rows.
DOCUMENTS = (".md", ".rst", ".py", ".ipynb", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".sh", ".log", ".html", ".pdf")
# part-00000.parquet, and what Spark puts behind it
_PART = re.compile(r"(part|shard|chunk)[-_.]?\d+([-_.].*)?", re.IGNORECASE)
# train-00000-of-00002, with the hash that older versions of datasets put behind it
_SHARD = re.compile(r"[-_.]?(?P<number>\d+)[-_]of[-_](?P<total>\d+)(-[0-9a-f]{16})?$", re.IGNORECASE)
_JOINED_WORD = re.compile("^(train|test|valid|val|dev|eval)|(train|test|valid|val|dev|eval)$")
_WORD = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|\d+")

# The files of each split of a task, in order: more than one are its shards.
Files = dict[str, list[Path]]


@dataclass(frozen=True)
class _DataFile:
    """A file and what its path says.

    Attributes:
        path: the file.
        owner: the folder that is the task, or holds its tasks.
        split: train, validation or test; None where nothing in the path names one.
        name: what its name says besides the split, or "".
        inside: whether a folder names the split.
        shard: number and total of "00001-of-00002".
    """

    path: Path
    owner: Path
    split: str | None
    name: str
    inside: bool
    shard: tuple[int, int] | None


def own_files(root: Path) -> dict[str, Files]:
    """The files by task. A file that names no split and is to be divided into splits is listed as train.

    Raises:
        UserError: `root` does not exist, holds no data, or its files are ambiguous.
    """
    if root.is_file():
        if not is_data(root):
            raise UserError(f"source.root={root}: {_unreadable(root)}")
        file = _describe(root, root.resolve().parent)
        name = file.name or root.resolve().parent.name
        return {_task_name(name, root): {file.split or "train": [root]}}
    if not root.is_dir():
        close = closest(root.name, [path.name for path in root.parent.glob("*")])
        hint = f"; did you mean '{close}'?" if close else "."
        raise UserError(f"source.root={root}: no such file or directory{hint}")
    files = [_describe(path, root) for path in _walk(root, root)]
    if not files:
        raise UserError(f"source.root={root}: {_no_data(root)}")
    tasks: dict[str, Files] = {}
    for owner in dict.fromkeys(file.owner for file in files):
        for name, splits in _tasks_of(owner, [file for file in files if file.owner == owner], root):
            task = _task_name(name, next(iter(splits.values()))[0])
            if task in tasks:
                first, second = (next(iter(each.values()))[0] for each in (tasks[task], splits))
                raise UserError(f"{second}: the task {task} has another file: {first}. Rename one of them.")
            tasks[task] = splits
    return dict(sorted(tasks.items()))


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of a published split in a benchmark's folder, by its published name: one file, or all its shards.

    Raises:
        UserError: the split has two files, or a shard is missing.
    """
    folders = [path for path in (folder, folder / "data") if path.is_dir()]
    names = [path for parent in folders for path in sorted(parent.iterdir()) if path.is_file() and is_data(path)]
    files = [_describe(path, folder) for path in names if _SHARD.sub("", _stem(path)).lower() == split]
    return _in_order(files, split) if files else []


def data_format(path: Path) -> tuple[str, str]:
    """The format and the compression of a file by its suffixes, in lower case: ".jsonl" and ".gz" or ""."""
    *_, inner, outer = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    return (inner, outer) if outer in COMPRESSIONS else (outer, "")


def is_data(path: Path) -> bool:
    """Whether a file is read, by its suffix."""
    return data_format(path)[0] in FORMATS


def split_of(name: str) -> tuple[str | None, str]:
    """The split that a name without suffixes names as one of its words, and the rest of the name.

    Raises:
        ValueError: it names two splits.
    """
    words = [(match[0], match.span()) for match in _WORD.finditer(name)]
    joined = {f"{a}{b}".lower(): (first[0], second[1]) for (a, first), (b, second) in pairwise(words)}
    known = {word: split for split, names in SPLIT_WORDS.items() for word in names}
    spans = [(known[word.lower()], span) for word, span in words if word.lower() in known]
    spans += [(known[word], span) for word, span in joined.items() if word in ("heldout", "holdout")]
    for word, span in words:
        # testset, traindata
        stripped = re.sub("(set|data|daten|file|split)$", "", word.lower())
        if word.lower() not in known and stripped in known:
            spans.append((known[stripped], span))
    splits = {split for split, _ in spans}
    if len(splits) > 1:
        raise ValueError(f"names two splits, {' and '.join(sorted(splits))}")
    if not splits:
        return None, name
    start, stop = spans[-1][1]
    rest = name[:start] + name[stop:]
    others = [word for word in _WORD.findall(rest) if word.lower() not in FILLER_WORDS]
    if not others or all(word.isdigit() for word in others):
        return splits.pop(), ""
    return splits.pop(), re.sub(r"([-_. ])[-_. ]+", r"\1", rest).strip("-_. ()")


def _walk(folder: Path, root: Path, depth: int = 0) -> Iterator[Path]:
    """The data files below a folder.

    Raises:
        UserError: a file is named as a split and cannot be read.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
    for path in paths:
        if STRAY_NAMES.fullmatch(path.name):
            continue
        if path.is_dir():
            if depth < MAX_DEPTH:
                yield from _walk(path, root, depth + 1)
        elif is_data(path):
            if not path.is_file():
                what = "is a link to nothing" if path.is_symlink() else "is no file that can be read"
                raise UserError(f"{path}: {what}; remove it, or move it elsewhere")
            yield path
        elif path.suffix.lower() not in DOCUMENTS and any(
            _names_a_split(name) for name in (_stem(path), *path.relative_to(root).parts[:-1])
        ):
            raise UserError(f"{path}: {_unreadable(path)}")


def named_split(name: str) -> str | None:
    """The one split that a name names; None where it names none, or two."""
    try:
        return split_of(name)[0]
    except ValueError:
        return None


def _names_a_split(name: str) -> bool:
    try:
        return split_of(name)[0] is not None
    except ValueError:
        return True


def _describe(path: Path, root: Path) -> _DataFile:
    stem = _stem(path)
    shard = _SHARD.search(stem)
    stem = _SHARD.sub("", stem)
    try:
        split, name = split_of(stem)
        folder_split = None
        owner = path.parent
        # train/part1.jsonl, data/train.jsonl
        while owner != root and root in owner.parents:
            inside, rest = split_of(owner.name)
            if inside and rest and not (split or folder_split):
                # law_test/part1.jsonl, train_sft/data-00000-of-00001.arrow
                name = rest if _is_filler(name) or _PART.fullmatch(name) else f"{rest}_{name}"
            elif not (inside and not rest) and owner.name.lower() not in ("data", "dataset"):
                break
            folder_split = folder_split or inside
            owner = owner.parent
    except ValueError as error:
        raise UserError(f"{path}: {error}; rename it, so that it names one of {', '.join(SPLITS)}.") from error
    if folder_split and split and folder_split != split:
        raise UserError(f"{path}: is named {split}, but lies in a folder named {folder_split}; rename one of them.")
    if not split and (_PART.fullmatch(name) or (folder_split and _is_filler(name))):
        name = ""
    # The one file of a folder written by save_to_disk.
    if shard and name == "data" and path.suffix == ".arrow":
        name = "" if folder_split else owner.name
    number = (int(shard["number"]), int(shard["total"])) if shard else None
    return _DataFile(path, owner, split or folder_split, name, folder_split is not None, number)


def _is_filler(name: str) -> bool:
    return all(word.isdigit() or word.lower() in FILLER_WORDS for word in _WORD.findall(name))


def _stem(path: Path) -> str:
    """The name of a file without the suffixes of its format and compression."""
    form, compression = data_format(path)
    suffixes = "".join(path.suffixes[-1:] if not compression else path.suffixes[-2:])
    return path.name.removesuffix(suffixes) if form in FORMATS else path.stem


def _tasks_of(owner: Path, files: list[_DataFile], root: Path) -> Iterator[tuple[str, Files]]:
    """The tasks of one folder, by name."""
    # A link below the root keeps its own name.
    folder_name = (owner.resolve() if owner == root else owner).name
    splits = [file for file in files if file.split]
    loose = [file for file in files if not file.split]
    names = {split: {file.name for file in splits if file.split == split} for split in SPLITS}
    shared = set.union(*names.values()) & {file.name for file in loose} if loose else set()
    for other in ("validation", "test"):
        shared |= names["train"] & names[other]
    if not splits:
        _refuse_joined_words(loose)
        for name, group in _by_name(loose):
            yield name or folder_name, {"train": _in_order(group, "train")}
        return
    if shared - {""} or (len(names["train"]) > 1 and not any(file.inside for file in splits)):
        # law_train.jsonl and law_test.jsonl, train/law.jsonl and test/law.jsonl, law.jsonl and law_test.jsonl
        for name, group in _by_name(files):
            alone = len(dict(_by_name(files))) == 1 and owner != root
            yield (folder_name if alone else name) or folder_name, _splits_of(group)
        return
    if loose and (names["train"] or len(dict(_by_name(loose))) > 1):
        raise UserError(
            f"{loose[0].path}: is no split, and lies beside {splits[0].path.name}; put train, validation or test into "
            "its name, or move it to a folder of its own."
        )
    only_names = {file.name for file in files} - {""}
    if len(only_names) > 1 and not any(file.inside for file in files):
        first, second = (next(file for file in files if file.name == name) for name in sorted(only_names)[:2])
        raise UserError(
            f"{second.path}: is of another task than {first.path.name} ({second.name}, {first.name}), and no file of "
            "its own to train on lies beside it; give the files of one task the same name."
        )
    # questions.jsonl beside test.jsonl: the one file without a split is what there is to train on.
    name = only_names.pop() if len(only_names) == 1 and owner == root else folder_name
    yield name, _splits_of(files)


def _refuse_joined_words(files: list[_DataFile]) -> None:
    """Refuse lawtrain.csv beside lawtest.csv; alone, contest.csv is no test."""
    named: dict[str, list[_DataFile]] = {}
    for file in files:
        rest = _JOINED_WORD.sub("", file.name.lower())
        named.setdefault(rest, []).append(file)
    for rest, group in named.items():
        if (
            rest
            and len({file.name.lower() for file in group}) > 1
            and any("train" in file.name.lower() for file in group)
        ):
            paths = " and ".join(str(file.path) for file in group)
            raise UserError(f"{paths}: are named like splits; put a line between the words, as in law_train, law_test.")


def _by_name(files: list[_DataFile]) -> Iterator[tuple[str, list[_DataFile]]]:
    for name in dict.fromkeys(file.name for file in files):
        yield name, [file for file in files if file.name == name]


def _splits_of(files: list[_DataFile]) -> Files:
    by_split = {split: [file for file in files if (file.split or "train") == split] for split in SPLITS}
    return {split: _in_order(group, split) for split, group in by_split.items() if group}


def _in_order(files: list[_DataFile], split: str) -> list[Path]:
    """The parts of a split in their order.

    Raises:
        UserError: two files are the same split, or a shard is missing.
    """
    first, *others = files
    totals = {file.shard[1] if file.shard else None for file in files}
    if totals == {None}:
        # Parts in a folder of their own, or numbered: train/a.jsonl, train_1.jsonl.
        parts = all(file.inside for file in files) or len({re.sub(r"\d+", "", file.path.name) for file in files}) == 1
        parts = parts or all(_PART.fullmatch(_stem(file.path)) for file in files)
        if others and not (parts and len({_stem(file.path) for file in files}) == len(files)):
            raise UserError(
                f"{others[0].path}: the split {split} has another file: {first.path}. Keep one, or put both into a "
                f"folder called {split}."
            )
        return [file.path for file in sorted(files, key=lambda file: _natural(file.path))]
    numbered = {file.shard[0]: file.path for file in files if file.shard}
    total = max(total or 0 for total in totals)
    if len(totals) > 1 or len(numbered) < len(files):
        raise UserError(f"{others[0].path}: the split {split} has another file: {first.path}. Keep one.")
    start = 1 if total in numbered else 0
    missing = [number for number in range(start, start + total) if number not in numbered]
    if missing:
        raise UserError(f"{first.path}: is one of {total} files of the split {split}; number {missing[0]} is missing.")
    return [numbered[number] for number in sorted(numbered)]


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts part10 after part9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)]


def _task_name(name: str, path: Path) -> str:
    """The name of a task, which also names files."""
    cleaned = re.sub(r"[^\w.-]+", "_", name).strip("._-")
    if not cleaned:
        raise UserError(f"{path}: its name gives no name for a task; put a letter or digit into it.")
    return cleaned


def _no_data(root: Path) -> str:
    formats = f"{{{','.join(suffix[1:] for suffix in FORMATS)}}}"
    others = [path for path in sorted(root.rglob("*")) if path.is_file() and not STRAY_NAMES.fullmatch(path.name)]
    deep = [path for path in others if is_data(path)]
    if deep:
        return f"holds no data in {MAX_DEPTH} levels of folders, but {deep[0]}; name a folder nearer to it."
    hint = f" {others[0].name}: {_unreadable(others[0])}" if others else ""
    return f"holds no data; put <task>/train.{formats} there, or one <task>.{formats}.{hint}"


def _unreadable(path: Path) -> str:
    suffix = path.suffix.lower()
    advice = {
        ".xlsx": 'save the sheet as "CSV UTF-8"', ".xls": 'save the sheet as "CSV UTF-8"',
        ".ods": "save the sheet as csv, in UTF-8", ".zip": "unpack it first", ".tar": "unpack it first",
        ".tgz": "unpack it first", ".7z": "unpack it first", ".bz2": "unpack it first (bunzip2)",
        ".xz": "unpack it first (unxz)", ".txt": 'write {"text": "..."} for each text into a .jsonl file',
        ".pkl": "pickles are not read; save it as parquet or jsonl", ".db": "export the table as csv or parquet",
        ".pickle": "pickles are not read; save it as parquet or jsonl", ".feather": "call it .arrow",
    }  # fmt: skip
    if suffix in advice:
        return f"cannot be read; {advice[suffix]}."
    return f"the format follows from the suffix; {nearest(path.suffix, FORMATS)}"
