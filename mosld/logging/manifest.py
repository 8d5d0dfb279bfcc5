"""Manifests: the size and sha256 of each file of a folder, so that any damage to one is noticed before it is used."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from mosld.config.ranks import is_main

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
