"""The manifest of a run directory: size and sha256 of every file that a command reads, and whose files they are.

A file is replaced in this order, so that no kill leaves one that looks damaged:

1. the content is written aside;
2. the manifest takes the new content besides the old;
3. a rename puts the file in place;
4. the manifest takes the new content alone.

A folder that is written as a whole (an adapter, a checkpoint) has a manifest of its own and is sealed by the checksum
of that file. Paths are relative, so a run that is copied or moved stays sealed. Runs of before have no manifest.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mosld.common import files
from mosld.common.files import MANIFEST, FileState, JsonObject, damage, file_state
from mosld.common.process import is_main
from mosld.common.reading import read_text

# What of a run directory is sealed; other names at its top are the user's.
SEALED_FILES = (
    "config.yaml", "data.json", "rows.json", "base_scores.json", "routing.json", "results.json", "metrics.jsonl",
    "lengthened.json",
)  # fmt: skip
SEALED_FOLDERS = ("adapter", "model", "experts", "checkpoints", "predictions", "eval")
# Below those folders: for people, or written line by line.
LOOSE_NAMES = ("README.md", "train.log", "metrics.jsonl", "wandb_id", "wandb", "figures")
SELF = "sha256"

# The states that a file may be in: one, and several while it is replaced; None is "no file".
States = list[FileState | None]
Changes = Mapping[Path, FileState | None]


class Seal:
    """The manifest of one run directory; where there is none, files are written and read without it.

    Attributes:
        root: the run directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def tree(self) -> JsonObject | None:
        """The content: identity, data, base, edited, files; None where it is missing or damaged."""
        text, tree = _read(self.root / MANIFEST)
        return tree if tree and text == _serialized(tree) else None

    def problem(self) -> str | None:
        """Why nothing can be checked, of a run that was sealed; None for an older one, too."""
        if self.tree() is not None:
            return None
        if any((self.root / name).is_file() for name in ("adapter_config.json", "config.json")):
            # An adapter or a model by itself has the manifest of a folder.
            return None
        if (self.root / MANIFEST).exists():
            return f"{MANIFEST} is damaged"
        _, description = _read(self.root / "data.json")
        return f"{MANIFEST} is missing" if description.get("sealed") else None

    def begin(self, identity: str, data: str, anew: bool = False) -> None:
        """Start the manifest, or continue the one that is there; an older run's files are taken as they are.

        Args:
            identity: hash of the config.
            data: fingerprint of the rows.
            anew: take nothing over from a manifest that is there.
        """
        tree = None if anew else self.tree()
        tree = tree or {"base": None, "edited": [], "files": _states(self.root, _contents(self.root))}
        self._write({**tree, "identity": identity, "data": data})

    def set_base(self, fingerprint: str) -> None:
        """Record the fingerprint of the base model's weights."""
        self._update(lambda tree: tree.update(base=fingerprint))

    def forget(self, path: Path) -> None:
        """Take a file or folder out of the manifest, because it grows or is gone."""
        name = self._name(path)

        def drop(tree: JsonObject) -> None:
            tree["files"] = {key: states for key, states in tree["files"].items() if not _lies_in(key, (name,))}

        self._update(drop)

    def accept(self, path: Path, by_hand: bool = False) -> None:
        """Take a file, or all below a folder, as it is now, or as gone.

        Args:
            path: the file or folder.
            by_hand: the user asks for it: the manifest keeps the name.
        """
        name = self._name(path)
        for folder in (path, *path.parents[: len(Path(name).parts) - 1]):
            if (folder / MANIFEST).is_file() and folder != self.root:
                files.write_manifest(folder, LOOSE_NAMES)
                name = self._name(folder)

        def take(tree: JsonObject) -> None:
            others = {key: states for key, states in tree["files"].items() if not _lies_in(key, (name,))}
            present = [key for key in _contents(self.root) if _lies_in(key, (name,))]
            if (self.root / name).is_file() and name not in present:
                present.append(name)
            tree["files"] = {**others, **_states(self.root, present)}
            if by_hand:
                tree["edited"] = sorted({*tree["edited"], self._name(path)})

        self._update(take)

    @contextmanager
    def replacing(self, changes: Changes) -> Iterator[None]:
        """Around the rename or the removal of files; None for what will be gone."""
        named = {self._name(path): state for path, state in changes.items()}
        before: dict[str, States] = {}

        def announce(tree: JsonObject) -> None:
            for name, state in named.items():
                before[name] = tree["files"].get(name, [None])
                tree["files"][name] = [*before[name], *(new for new in (None, state) if new not in before[name])]

        def settle(tree: JsonObject) -> None:
            for name, state in named.items():
                # What another process has announced meanwhile stays.
                others = [one for one in tree["files"].get(name, []) if one not in (*before.get(name, []), None, state)]
                tree["files"][name] = [*others, state]
                if tree["files"][name] == [None]:
                    del tree["files"][name]

        self._update(announce)
        yield
        self._update(settle)

    def write_text(self, path: Path, text: str) -> None:
        """As `files.write_text`, sealed."""
        content = text.encode(errors="backslashreplace")
        state: FileState = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        with self.replacing({path: state}):
            files.write_text(path, text)

    def write_json(self, path: Path, tree: object) -> None:
        """As `files.write_json`, sealed."""
        self.write_text(path, files.json_text(tree))

    def write_lines(self, path: Path, records: Iterable[JsonObject]) -> None:
        """As `write_text`, with one JSON object per line."""
        self.write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))

    def write_folder(
        self,
        target: Path,
        write: Callable[[Path], object],
        prose: tuple[str, ...] = (),
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """As `files.write_folder`, sealed."""
        files.write_folder(target, write, prose, meanwhile, lambda state: self.replacing({target / MANIFEST: state}))

    def remove(self, *paths: Path) -> None:
        """Remove files and folders; a missing one is no error."""
        tree = self.tree()
        names = tuple(map(self._name, paths))
        listed = [self.root / name for name in (tree["files"] if tree else ()) if _lies_in(name, names)]
        with self.replacing(dict.fromkeys(listed)):
            for path in paths:
                files.remove(path)

    def faults(self, *names: str, added: bool = False) -> list[str]:
        """What is wrong, one sentence a file: "config.yaml differs from its checksum".

        Args:
            names: the files and folders to look at; none: all.
            added: also name what is not in the manifest.
        """
        tree = self.tree()
        if tree is None:
            return []
        listed: dict[str, States] = {
            name: states for name, states in tree["files"].items() if not names or _lies_in(name, names)
        }
        faults: list[str] = []
        for name, states in sorted(listed.items()):
            faults += _faults(self.root, name, states)
        if added:
            # A folder that is being replaced may be new.
            unknown = set(_contents(self.root)) - set(listed) - {name for name in listed if None in listed[name]}
            loose = () if "results.json" in listed else ("metrics.jsonl",)
            faults += [f"{name} is not in {MANIFEST}" for name in sorted(unknown) if name not in loose]
            for name in listed:
                faults += _added(self.root, name)
        return faults

    def fault(self, path: Path) -> str | None:
        """What is wrong with one file: damage, or that it is not this run's."""
        tree = self.tree()
        if tree is None:
            return None
        name = self._name(path)
        if name not in tree["files"]:
            return f"{name} is not in {MANIFEST}"
        return next(iter(_faults(self.root, name, tree["files"][name])), None)

    def folder_faults(self, folder: Path) -> list[str]:
        """What is wrong with a folder that has a manifest of its own: damage, or that it is not this run's."""
        if self.tree() is None:
            return [self._name(folder / fault) for fault in damage(folder)]
        if not self.lists(folder / MANIFEST):
            return [f"{self._name(folder)}/ is not in {MANIFEST}: it is of another run"]
        return self.faults(self._name(folder / MANIFEST))

    def base(self) -> str | None:
        """The fingerprint of the base model's weights, where it was recorded."""
        return (self.tree() or {}).get("base")

    def lists(self, path: Path) -> bool:
        """Whether a file belongs to the run; true of every file of an older run."""
        tree = self.tree()
        return tree is None or self._name(path) in tree["files"]

    def lists_below(self, path: Path) -> bool:
        """Whether a file, or one below a folder, is in the manifest."""
        return any(_lies_in(name, (self._name(path),)) for name in (self.tree() or {"files": ()})["files"])

    def _name(self, path: Path) -> str:
        return Path(os.path.abspath(path)).relative_to(os.path.abspath(self.root)).as_posix()

    def _update(self, change: Callable[[JsonObject], object]) -> None:
        """Change the manifest, if there is one; evaluations of one run may do it at a time."""
        if not is_main() or self.tree() is None:
            return
        with files.locked(self.root / ".manifest.lock"):
            tree = self.tree()
            if tree is not None:
                change(tree)
                self._write(tree)

    def _write(self, tree: JsonObject) -> None:
        files.write_text(self.root / MANIFEST, _serialized(tree))


def seal_of(path: Path) -> Seal:
    """The seal of the run that a directory is, or in which it lies as adapter/, eval/<name>/ or experts/<task>/ do."""
    for run in path.absolute().parents[:3]:
        inside = path.absolute().relative_to(run).parts[0] in SEALED_FOLDERS
        if inside and ((run / "data.json").is_file() or Seal(run).tree()) and not (path / "data.json").is_file():
            return Seal(run)
    return Seal(path)


def _read(path: Path) -> tuple[str, JsonObject]:
    """The text of a file and the JSON object in it; an empty one where it is missing or damaged."""
    try:
        text = read_text(path)
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return "", {}
    return text, tree if isinstance(tree, dict) else {}


def _serialized(tree: JsonObject) -> str:
    """The one text of a manifest: a digit that is edited and a file that another program wrote again both differ."""
    content = {key: value for key, value in tree.items() if key != SELF}
    body = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return files.json_text({**dict(sorted(content.items())), SELF: hashlib.sha256(body.encode()).hexdigest()})


def _lies_in(name: str, folders: Iterable[str]) -> bool:
    return any(name == folder or name.startswith(f"{folder}/") for folder in folders)


def _states(root: Path, names: Iterable[str]) -> dict[str, States]:
    return {name: [file_state(root / name)] for name in names}


def _contents(root: Path) -> list[str]:
    """The files that a manifest lists: those of `SEALED_FILES` and all below `SEALED_FOLDERS`."""
    names = [name for name in SEALED_FILES if (root / name).is_file()]
    for folder in SEALED_FOLDERS:
        names += [path.relative_to(root).as_posix() for path in _files_below(root / folder)]
    return names


def _files_below(folder: Path) -> Iterator[Path]:
    """The files below a folder; of one with a manifest that alone, and what lies in its folders."""
    whole = (folder / MANIFEST).is_file()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.name in LOOSE_NAMES:
            continue
        if path.is_dir():
            yield from _files_below(path)
        elif not whole or path.name == MANIFEST:
            yield path


def _faults(root: Path, name: str, states: States) -> Iterator[str]:
    state = file_state(root / name, states)
    folder = Path(name).parent
    if state in states:
        if Path(name).name == MANIFEST and state is not None:
            yield from (f"{folder.as_posix()}/{fault}" for fault in damage(root / folder))
    elif state is None:
        yield f"{name} is missing"
    elif Path(name).name == MANIFEST and not any(damage(root / folder)):
        yield f"{folder.as_posix()}/ is of another run, or of another step"
    else:
        yield f"{name} differs from its checksum"


def _added(root: Path, name: str) -> Iterator[str]:
    """The files of a folder that its own manifest does not list."""
    folder = (root / name).parent
    if Path(name).name != MANIFEST or not folder.is_dir():
        return
    known = {MANIFEST, *LOOSE_NAMES, *(files.read_json(root / name) or {})}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in known and not path.name.startswith("."):
            yield f"{path.relative_to(root).as_posix()} is not in the {MANIFEST} beside it"
