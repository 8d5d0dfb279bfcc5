"""A cache of encoded rows: a second run on the same rows, or a resumed one, does not tokenize again.

A file is named after everything its tokens depend on: the rows, which options are kept, prompt format and code,
tokenizer, cutoffs. It is a safetensors file of integers with a checksum; a damaged one is replaced.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mosld.common.files import build_once, cache_directory
from mosld.data.prompts import Encoded, Keep, PromptEncoder
from mosld.data.rows import AnyRow
from mosld.data.tasks import TASKS

if TYPE_CHECKING:
    from _hashlib import HASH

# The files that were not used for longest are deleted.
MAX_FILES = 256
# Tokenized at once, between two updates of a progress bar.
CHUNK_ROWS = 1000


class CachedEncoder(PromptEncoder):
    """A `PromptEncoder` that reads from the cache what was tokenized before."""

    # Wraps the chunks of many rows, to show a progress bar.
    progress: Callable[[Sequence[Sequence[AnyRow]]], Iterable[Sequence[AnyRow]]] = iter

    def encode(self, rows: Sequence[AnyRow], keep: Keep | None = None) -> list[Encoded]:
        """As `PromptEncoder.encode`, from the cache where possible."""
        fingerprint = self._fingerprint(rows, keep)
        if fingerprint is None or not rows:
            return self._encode_chunks(rows, keep)
        path = cache_directory() / "tokens" / f"{fingerprint}.safetensors"
        encoded = _read(path, rows)
        if encoded is None:
            encoded = self._encode_chunks(rows, keep)
            # The run does not depend on the cache: the disk may be full, the folder read-only.
            with contextlib.suppress(OSError, SafetensorError):
                _write(path, encoded)
        return encoded

    def _encode_chunks(self, rows: Sequence[AnyRow], keep: Keep | None) -> list[Encoded]:
        chunks = [rows[start : start + CHUNK_ROWS] for start in range(0, len(rows), CHUNK_ROWS)]
        tracked = self.progress(chunks) if len(chunks) > 1 else chunks
        return [question for chunk in tracked for question in super(CachedEncoder, self).encode(chunk, keep)]

    @cached_property
    def _settings_digest(self) -> "HASH | None":
        """The digest of everything but the rows, computed once: a tokenizer takes as long as thousands of rows."""
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
        """A digest of everything that the tokens depend on; None where the tokenizer cannot be serialized."""
        if self._settings_digest is None:
            return None
        digest = self._settings_digest.copy()
        for row in rows:
            digest.update(repr((row, None if keep is None else list(keep(row)))).encode())
        return digest.hexdigest()[:32]


def _write(path: Path, encoded: Sequence[Encoded]) -> None:
    numbers = numpy.fromiter(_numbers(encoded), dtype=numpy.int32)
    metadata = {"sha256": hashlib.sha256(numbers.tobytes()).hexdigest()}
    # A file that is there was not readable.
    path.unlink(missing_ok=True)
    build_once(path, lambda aside: save_file({"tokens": numbers}, aside, metadata))
    for old in sorted(path.parent.glob("*.safetensors"), key=lambda file: -file.stat().st_mtime)[MAX_FILES:]:
        old.unlink(missing_ok=True)


def _read(path: Path, rows: Sequence[AnyRow]) -> list[Encoded] | None:
    """The encoded rows in a file; None where it is missing or damaged."""
    try:
        with safe_open(path, "np") as file:
            numbers = file.get_tensor("tokens")
            sha256 = file.metadata()["sha256"]
        if hashlib.sha256(numbers.tobytes()).hexdigest() != sha256:
            return None
        encoded = _questions(numbers.tolist(), rows)
        # The time of the last use decides which files are deleted.
        os.utime(path)
    except (OSError, SafetensorError, KeyError, ValueError, StopIteration):
        return None
    return encoded


def _numbers(encoded: Iterable[Encoded]) -> Iterator[int]:
    """Of each question: the number of options, cut, shots, then the length of prompt and options and their tokens."""
    for question in encoded:
        yield from (len(question.options), question.cut, question.shots)
        for tokens in (question.prompt, *question.options):
            yield len(tokens)
            yield from tokens


def _questions(numbers: list[int], rows: Sequence[AnyRow]) -> list[Encoded]:
    """The inverse of `_numbers`."""
    stream = iter(numbers)
    encoded = []
    for row in rows:
        options, cut, shots = islice(stream, 3)
        prompt, *texts = [list(islice(stream, next(stream))) for _ in range(1 + options)]
        encoded.append(Encoded(row, prompt, texts, bool(cut), shots))
    if next(stream, None) is not None:
        raise ValueError(f"{len(numbers)} numbers are more than those of {len(rows)} rows")
    return encoded
