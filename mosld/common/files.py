"""Files and folders that are either complete or absent: written aside, synced, renamed; checksums; the cache."""

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mosld.common.errors import UserError
from mosld.common.process import is_main
from mosld.common.reading import load_json

MANIFEST = "manifest.json"

# A JSON object as Python reads it: results.json, a line of metrics.jsonl, the tree of a YAML file.
JsonObject = dict[str, Any]


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically: a reader sees the old text or the new one. Only the main process writes."""
    if not is_main():
        return
    aside = path.with_name(f".{path.name}.tmp")
    # A path may hold half a character; the escape is what JSON writes for it, too.
    with aside.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def write_json(path: Path, tree: object) -> None:
    """As `write_text`, with a JSON document."""
    write_text(path, json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> JsonObject | None:
    """The JSON object in a file; None if the file is missing, damaged, or holds anything else."""
    try:
        return load_json(path, JsonObject)
    except UserError:
        return None


def write_lines(path: Path, records: list[JsonObject]) -> None:
    """As `write_text`, with one JSON object per line."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def disk_is_full(error: BaseException) -> bool:
    """Whether an error means that no more can be written; safetensors says so only in its message."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in codes or any(f"os error {code}" in str(error) for code in codes)


def write_folder(
    target: Path,
    write: Callable[[Path], object],
    prose: tuple[str, ...] = (),
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Replace a folder so that it is complete or absent, whenever the process is killed.

    All files go into a folder aside and are synced, together with a manifest of their sizes and sha256; one rename puts
    the folder in place. All files have the mode that the umask asks for.

    Args:
        target: the folder to replace.
        write: fills the folder it is given; only the main process calls it.
        prose: names of files that users may edit; they are not in the manifest.
        meanwhile: what the other processes do: send their shards of what is written.
    """
    if not is_main():
        meanwhile()
        return
    # A link stays, and what it names is replaced.
    target = target.resolve()
    aside = target.with_name(f".tmp-{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        write(aside)
        files = sorted(path for path in aside.iterdir() if path.is_file())
        entries = {path.name: _manifest_entry(path) for path in files if path.name not in prose}
        (aside / MANIFEST).write_text(json.dumps(entries, indent=2))
        # safetensors gives its files mode 600, whatever the umask says.
        mode = stat.S_IMODE((aside / MANIFEST).stat().st_mode)
        for path in files:
            path.chmod(mode)
        for path in [*files, aside / MANIFEST, aside]:
            _sync(path)
    except BaseException:
        # On a full disk the half-written folder must not take up space.
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)
    _sync(target.parent)


def damage(folder: Path) -> Iterator[str]:
    """Compare a folder with its manifest and yield what is wrong; files that are not in the manifest are ignored."""
    manifest = read_json(folder / MANIFEST)
    if manifest is None:
        yield f"{MANIFEST} is missing or damaged"
        return
    for name, entry in sorted(manifest.items()):
        if not (folder / name).is_file():
            yield f"{name} is missing"
        elif _manifest_entry(folder / name) != entry:
            yield f"{name} differs from its checksum"


def _manifest_entry(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_directory() -> Path:
    """``$MOSLD_CACHE``, else ``$XDG_CACHE_HOME/mosld``, else ``~/.cache/mosld``.

    Raises:
        UserError: the user has no home directory.
    """
    cache = os.environ.get("MOSLD_CACHE")
    if cache:
        return Path(cache)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mosld"
    except RuntimeError as error:
        raise UserError(
            "no home directory is known, so there is no place for the cache; set MOSLD_CACHE=DIR."
        ) from error


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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=target.parent)
    except OSError as error:
        reason = f"{error.strerror}; set MOSLD_CACHE=DIR to cache elsewhere"
        raise OSError(error.errno, reason, str(target.parent)) from error
    with folder as scratch:
        aside = Path(scratch) / target.name
        make(aside)
        try:
            aside.rename(target)
        except OSError:
            # Another process has put its folder in place.
            if not target.is_dir():
                raise
    return target
