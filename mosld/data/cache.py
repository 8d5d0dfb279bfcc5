"""Folders of Arrow files in the cache, each named after everything its content depends on.

A folder is complete or absent, and has checksums: a damaged one, or one under another's name, is made again.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pyarrow

from mosld.common.files import CACHE_MANIFEST, build_once, damage, remove

T = TypeVar("T")
NAME_FILE = "name"


def code_digest() -> bytes:
    """A digest of the code that makes rows and tokens."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


def read_cached(folder: Path, read: Callable[[Path], T]) -> T | None:
    """What `read` makes of a folder; None where it is missing or damaged."""
    try:
        if any(damage(folder, CACHE_MANIFEST)) or (folder / NAME_FILE).read_text() != folder.name:
            return None
        content = read(folder)
    except (OSError, ValueError, KeyError, pyarrow.ArrowException):
        return None
    # The time of the last use decides which folders are deleted. A cache of somebody else is only read.
    with suppress(OSError):
        folder.touch()
    return content


def write_cached(folder: Path, write: Callable[[Path], object], most: int) -> None:
    """Make a folder anew, and delete the folders beside it that were not used for longest: `most` stay.

    Raises:
        OSError: the disk is full, or the cache cannot be written.
    """

    def make(aside: Path) -> None:
        aside.mkdir(parents=True)
        write(aside)
        (aside / NAME_FILE).write_text(folder.name)

    remove(folder)
    build_once(folder, make)
    for old in sorted(folder.parent.iterdir(), key=lambda path: -path.stat().st_mtime)[most:]:
        with suppress(OSError):
            remove(old)
