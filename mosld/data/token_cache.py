"""Rows as tokens, kept in the cache: the second start of a run, and every run on the same rows, tokenises nothing.

A file is named after all that its tokens depend on: the rows, which options are wanted, prompt format and code,
tokenizer, cutoffs. It is one safetensors file of whole numbers with a checksum; a damaged one is made anew.
"""

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mosld.common.files import cache_directory
from mosld.data.prompts import Encoded, Keep, PromptEncoder
from mosld.data.rows import AnyRow
from mosld.data.tasks import TASKS

KEPT = 256  # files; those unused for longest go first
CHUNK = 1000  # rows that are tokenised at once, between two moves of a progress bar
NOTES: list[tuple[str, Callable[[int], Any]]] = [
    (field.name, type(field.default))
    for field in dataclasses.fields(Encoded)
    if field.name not in ("row", "prompt", "options")
]
"""What else is known of a question, whole numbers and truths, with the type of each."""
UNREADABLE = (OSError, SafetensorError, KeyError, ValueError, IndexError)


class CachedEncoder(PromptEncoder):
    """A `PromptEncoder` that reads from the cache what was tokenised before."""

    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter
    """Wraps the parts of a list that takes long, for a progress bar."""

    def encode(self, rows: Sequence[AnyRow], keep: Keep | None = None) -> list[Encoded]:
        """As of the prompt encoder, out of the cache where it is there."""
        fingerprint = self._fingerprint(rows, keep)
        if fingerprint is None or not rows:
            return self._tokenise(rows, keep)
        path = cache_directory() / "tokens" / f"{fingerprint}.safetensors"
        found = _read(path, rows)
        if found is None:
            found = self._tokenise(rows, keep)
            with contextlib.suppress(OSError):  # a full disk, a cache that cannot be written: the run goes on
                _write(path, found)
        return found

    def _tokenise(self, rows: Sequence[AnyRow], keep: Keep | None) -> list[Encoded]:
        parts = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        tracked = self.progress(parts) if len(parts) > 1 else parts
        return [encoded for part in tracked for encoded in super(CachedEncoder, self).encode(part, keep)]

    @cached_property
    def _own(self) -> Any:
        """The digest before the rows: a tokenizer's takes as long as that of thousands of them."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        digest = hashlib.sha256(backend.to_str().encode())
        settings = {name: value for name, value in vars(self).items() if name not in ("tokenizer", "progress")}
        digest.update(repr((sorted(settings.items()), TASKS)).encode())
        for path in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(path.read_bytes())
        return digest

    def _fingerprint(self, rows: Sequence[AnyRow], keep: Keep | None) -> str | None:
        """Of everything that the tokens depend on; None where the tokenizer does not say all of itself."""
        if self._own is None:
            return None
        digest = self._own.copy()
        for row in rows:
            digest.update(repr((row, None if keep is None else list(keep(row)))).encode())
        return digest.hexdigest()[:32]


def _write(path: Path, encoded: Sequence[Encoded]) -> None:
    """Put the file in place whole; two processes that make it at once write the same."""
    body = numpy.fromiter(_numbers(encoded), dtype=numpy.int32)
    content = save({"tokens": body}, {"sha256": hashlib.sha256(body.tobytes()).hexdigest()})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(aside, path)
    except OSError:
        Path(aside).unlink(missing_ok=True)
        raise
    for old in sorted(path.parent.glob("*.safetensors"), key=lambda one: -one.stat().st_mtime)[KEPT:]:
        old.unlink(missing_ok=True)


def _read(path: Path, rows: Sequence[AnyRow]) -> list[Encoded] | None:
    """What the file holds of these rows; None where there is none, or a damaged one."""
    try:
        with safe_open(path, "np") as file:
            body, sha256 = file.get_tensor("tokens"), file.metadata()["sha256"]
        if hashlib.sha256(body.tobytes()).hexdigest() != sha256:
            return None
        found = _questions(body.tolist(), rows)
        os.utime(path)
    except UNREADABLE:
        return None
    return found


def _numbers(encoded: Iterable[Encoded]) -> Iterator[int]:
    """Of each question: how many options, its notes, the length of prompt and options, their tokens."""
    for one in encoded:
        yield len(one.options)
        yield from (int(getattr(one, name)) for name, _ in NOTES)
        yield from map(len, (one.prompt, *one.options))
        for tokens in (one.prompt, *one.options):
            yield from tokens


def _questions(numbers: list[int], rows: Sequence[AnyRow]) -> list[Encoded]:
    found, place = [], 0
    for row in rows:
        options, *notes = numbers[place : place + 1 + len(NOTES)]
        place += 1 + len(NOTES)
        lengths = numbers[place : place + 1 + options]
        place += 1 + options
        texts = []
        for length in lengths:
            texts.append(numbers[place : place + length])
            place += length
        kept = {name: kind(value) for (name, kind), value in zip(NOTES, notes, strict=True)}
        found.append(Encoded(row, texts[0], texts[1:], **kept))
    if place != len(numbers):
        raise ValueError(f"{len(numbers)} numbers, {place} of them are of the {len(rows)} rows")
    return found
