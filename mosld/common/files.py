"""Files and folders that are either complete or absent: written aside, synced, renamed; checksums; the cache."""

import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from mosld.common.errors import UserError
from mosld.common.process import is_main
from mosld.common.reading import load_json, open_file

MANIFEST = "manifest.json"
# Of a folder in the cache, at all depths.
CACHE_MANIFEST = ".manifest.json"
# There is no regular file of that name.
NO_FILE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)
# Size and sha256 of a file.
FileState = dict[str, int | str]

# A JSON object as Python reads it: results.json, a line of metrics.jsonl, the tree of a YAML file.
JsonObject = dict[str, Any]


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically: a reader sees the old text or the new one. Only the main process writes."""
    if not is_main():
        return
    aside = path.with_name(f".{path.name}.tmp")
    # A path may hold half a character; the escape is what JSON writes for it, too.
    with aside.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def write_json(path: Path, tree: object) -> None:
    """As `write_text`, with a JSON document."""
    write_text(path, json_text(tree))


def json_text(tree: object) -> str:
    """The text of a JSON file."""
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> JsonObject | None:
    """The JSON object in a file; None if the file is missing, damaged, or holds anything else."""
    try:
        return load_json(path, JsonObject)
    except UserError:
        return None


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file against other processes; it ends with this process, however that ends.

    Raises:
        TimeoutError: another process holds it, and `wait` is false.
    """
    # Help needs no lock, and its import takes as long as that of numpy.
    from filelock import FileLock

    # A file as a stand-in for the system's lock would outlive a process that is killed on another machine.
    lock = FileLock(path, blocking=wait, fallback_to_soft=False)
    try:
        lock.acquire()
    except TimeoutError:
        raise
    except OSError:
        # Some shared file systems have no locks, and a directory of somebody else is only read.
        pass
    try:
        yield
    finally:
        lock.release()


def disk_is_full(error: BaseException) -> bool:
    """Whether an error means that no more can be written; safetensors says so only in its message."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in codes or any(f"os error {code}" in str(error) for code in codes)


def write_folder(
    target: Path,
    write: Callable[[Path], object],
    prose: tuple[str, ...] = (),
    meanwhile: Callable[[], object] = lambda: None,
    placing: Callable[[FileState | None], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Replace a folder so that it is complete or absent, whenever the process is killed.

    All files go into a folder aside and are synced, together with a manifest of their sizes and sha256; one rename puts
    the folder in place. All files have the mode that the umask asks for.

    Args:
        target: the folder to replace.
        write: fills the folder it is given; only the main process calls it.
        prose: names of files that users may edit; they are not in the manifest.
        meanwhile: what the other processes do: send their shards of what is written.
        placing: a context around the rename, from the state of the manifest.
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
        written = write_manifest(aside, prose)
        # safetensors gives its files mode 600, whatever the umask says.
        mode = stat.S_IMODE((aside / MANIFEST).stat().st_mode)
        for path in written:
            path.chmod(mode)
        for path in [*written, aside / MANIFEST, aside]:
            _sync(path)
    except BaseException:
        # On a full disk the half-written folder must not take up space.
        shutil.rmtree(aside, ignore_errors=True)
        raise
    with placing(file_state(aside / MANIFEST)):
        remove(target)
        aside.rename(target)
    _sync(target.parent)


def write_manifest(folder: Path, prose: tuple[str, ...] = ()) -> list[Path]:
    """Write the manifest of a folder's files, without those in `prose`; returns all files."""
    (folder / MANIFEST).unlink(missing_ok=True)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    entries = {path.name: file_state(path) for path in files if path.name not in prose}
    (folder / MANIFEST).write_text(json.dumps(entries, indent=2))
    return files


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there; a folder goes by one rename, so that no half of it is ever seen."""
    gone = path.with_name(f".tmp-gone-{path.name}")
    shutil.rmtree(gone, ignore_errors=True)
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        path.rename(gone)
        shutil.rmtree(gone)


def damage(folder: Path, manifest: str = MANIFEST, skipped: tuple[str, ...] = ()) -> Iterator[str]:
    """Compare a folder with its manifest and yield what is wrong; files that are not in the manifest are ignored."""
    entries = read_json(folder / manifest)
    if entries is None:
        yield f"{manifest} is missing or damaged"
        return
    for name, entry in sorted(entries.items()):
        if name in skipped:
            continue
        state = file_state(folder / name, [entry])
        if state is None:
            yield f"{name} is missing"
        elif state != entry:
            yield f"{name} differs from its checksum"


def file_state(path: Path, expected: Sequence[object] = ()) -> FileState | None:
    """Size and sha256 of a file; None where there is none. One of a size that is not `expected` is not hashed."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if expected and size not in [state.get("bytes") for state in expected if isinstance(state, dict)]:
                return {"bytes": size}
            return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        if error.errno in NO_FILE:
            return None
        raise


def _sync(path: Path) -> None:
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        # It opens no directory.
        return
    # It syncs only what may be written.
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
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


def cache_damage(folder: Path, skipped: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with a folder of the cache; one that an earlier mosld made gets its manifest now."""
    if not (folder / CACHE_MANIFEST).is_file():
        # A cache of somebody else is only read.
        with suppress(OSError):
            write_text(folder / CACHE_MANIFEST, _cache_manifest(folder))
        return []
    return list(damage(folder, CACHE_MANIFEST, skipped))


def _cache_manifest(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return json_text({path.relative_to(folder).as_posix(): file_state(path) for path in files})


def walk(directory: str | Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` in sorted order without hidden folders, in which links are followed and no folder is met twice.

    Yields:
        The folder, and the names of the folders and of the files in it; of the former those that the caller takes out
        are not visited.
    """
    seen: set[str] = set()
    for folder, below, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = sorted(name for name in below if not name.startswith(".")) if real not in seen else []
        if real not in seen:
            seen.add(real)
            yield Path(folder), below, names


def build_once(target: Path, make: Callable[[Path], object]) -> Path:
    """Build a file or folder unless it exists whole; a reader sees it complete or not at all.

    Several processes may build at once: the first one to finish puts its result in place, and the others keep it.

    Args:
        target: the path to build.
        make: writes the content to the path it is given, which lies in a scratch folder that is deleted afterwards.

    Returns:
        `target`.
    """
    if target.exists():
        if not target.is_dir() or not cache_damage(target):
            return target
        print(f"{target} is damaged; building it again", file=sys.stderr)
        remove(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=target.parent)
    except OSError as error:
        reason = f"{error.strerror}; set MOSLD_CACHE=DIR to cache elsewhere"
        raise OSError(error.errno, reason, str(target.parent)) from error
    with folder as scratch:
        aside = Path(scratch) / target.name
        make(aside)
        if aside.is_dir():
            (aside / CACHE_MANIFEST).write_text(_cache_manifest(aside))
        try:
            aside.replace(target)
        except OSError:
            # Another process has put its folder in place, or on Windows reads the file.
            if not target.exists():
                raise
    return target
