"""Manifests: the size and sha256 of each file of a folder, so that any damage to one is noticed before it is used."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> list[Path]:
    """Write the manifest of a folder's files; returns the files it names."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    (folder / MANIFEST).write_text(json.dumps({path.name: _entry(path) for path in files}, indent=2))
    return files


def damage(folder: Path) -> Iterator[str]:
    """What is wrong with a folder, compared with its manifest; nothing if it is whole. Other files may stand beside."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        names = sorted(manifest)
    except (OSError, ValueError):
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
