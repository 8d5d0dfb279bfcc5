"""Files that are either whole or not there: written aside, synced, renamed."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mosld.common.process import is_main

# PART: Files that are either whole or not there: written aside, synced, renamed.


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a file with this text; a reader sees the old file or the new one, never half of it.

    Of several processes the main one alone writes.
    """
    if not is_main():
        return
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def write_json(path: Path, tree: Any) -> None:
    """As `write_text`, of a JSON document."""
    write_text(path, json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON document holds; None where it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """As `write_text`, of one JSON object a line."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left; safetensors says it in words alone."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(f"os error {number}" in str(error) for number in full)


# PART: Manifests: the size and sha256 of each file of a folder, so that any damage to one is noticed before it is
# used.


MANIFEST = "manifest.json"


def write_folder(
    target: Path,
    write: Callable[[Path], object],
    prose: tuple[str, ...] = (),
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Let `write` fill a folder, then put it in place of any of that name: whole or not there, whatever is killed.

    All files go into a folder aside, each synced; a manifest with the size and sha256 of each; one rename; the parent
    synced. Files named in `prose` stand outside the manifest: people edit them. Of several processes the main one alone
    writes; the others call `meanwhile`, where they hold parts of what it writes.
    """
    if not is_main():
        meanwhile()
        return
    aside = target.with_name(f".tmp-{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        write(aside)
        files = sorted(path for path in aside.iterdir() if path.is_file())
        entries = {path.name: _entry(path) for path in files if path.name not in prose}
        (aside / MANIFEST).write_text(json.dumps(entries, indent=2))
        for path in [*files, aside / MANIFEST, aside]:
            _sync(path)
    except BaseException:  # a full disk, say, which half a folder shall not fill further
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)
    _sync(target.parent)


def damage(folder: Path) -> Iterator[str]:
    """What is wrong with a folder, compared with its manifest; nothing if it is whole. Other files may stand beside."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        names = sorted(manifest.keys())
    except (OSError, ValueError, AttributeError):
        yield f"{MANIFEST} is missing or damaged"
        return
    for name in names:
        if not (folder / name).is_file():
            yield f"{name} is missing"
        elif _entry(folder / name) != manifest[name]:
            yield f"{name} differs from its checksum"


def _entry(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# PART: Where things that are made once are kept.


def cache_directory() -> Path:
    """``$MOSLD_CACHE``, else ``$XDG_CACHE_HOME/mosld``, else ``~/.cache/mosld``."""
    named = os.environ.get("MOSLD_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mosld"


def build_once(target: Path, make: Callable[[Path], object]) -> Path:
    """Build a file or folder unless it exists; a reader sees it complete or not at all.

    Several processes may build at once: the first one to finish puts its result in place, and the others keep it.

    Args:
        target: the path to build.
        make: writes the content to the path it is given, which lies in a scratch folder that is deleted afterwards.

    Returns:
        `target`.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        aside = Path(scratch) / target.name
        make(aside)
        try:
            aside.rename(target)
        except OSError:
            # Another process has put its folder in place.
            if not target.is_dir():
                raise
    return target
