"""A cache of encoded rows: a second run on the same rows, or a resumed one, does not tokenize again.

A folder is named after everything its tokens depend on: the rows, which options are kept, prompt format and code,
tokenizer, cutoffs. Its Arrow file is mapped into memory, not read.
"""

import contextlib
import hashlib
import marshal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from itertools import accumulate, chain, pairwise
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow
from pyarrow import ipc

from mosld.common.files import cache_directory
from mosld.data.cache import code_digest, read_cached, write_cached
from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.data.tasks import TASKS
from mosld.data.tokens.prompts import EncodeChunk, Encoded, Keep, PromptEncoder
from mosld.data.tokens.token_table import SCHEMA, Chunks, Record, TokenTable, record_batch

if TYPE_CHECKING:
    from _hashlib import HASH

FILE = "tokens.arrow"
MAX_FOLDERS = 256
# All values of a row, by its kind.
VALUES = {kind: attrgetter(*(field.name for field in fields(kind))) for kind in (Row, Solution, Reply)}
# A format of `marshal` in which equal values have equal bytes.
MARSHAL_VERSION = 2


class CachedEncoder(PromptEncoder):
    """A `PromptEncoder` that reads from the cache what was tokenized before."""

    # Wraps the chunks of many rows, to show a progress bar.
    progress: Callable[[Sequence[Sequence[AnyRow]]], Iterable[Sequence[AnyRow]]] = iter

    def encode(self, rows: Sequence[AnyRow], keep: Keep | None = None) -> list[Encoded]:
        """As `PromptEncoder.encode`, from the cache where possible."""
        options = None if keep is None else [tuple(keep(row)) for row in rows]
        table = self.table(
            rows,
            lambda chunk: record_batch([self._record(question) for question in self.encode_chunk(chunk, keep)]),
            ("questions", options),
        )
        return [_question(record, row) for record, row in zip(table, rows, strict=True)]

    def _record(self, question: Encoded) -> Record:
        tokens = [*question.prompt, *chain.from_iterable(question.options)]
        ends = accumulate(map(len, question.options), initial=len(question.prompt))
        marks = [len(question.options), *ends, *chain.from_iterable(question.earlier)]
        return Record(tokens, marks, question.untruncated, self.task_number(question.row), question.shots, question.cut)

    def table(self, rows: Sequence[AnyRow], encode: EncodeChunk, name: object) -> TokenTable:
        """As `PromptEncoder.table`, from the cache where possible."""
        fingerprint = self._fingerprint(rows, name)
        if fingerprint is None or not rows:
            return super().table(rows, encode, name)
        folder = cache_directory() / "tokens" / fingerprint
        batches = read_cached(folder, _read)
        if batches is None:
            # The run does not depend on the cache: the disk may be full, the folder read-only.
            with contextlib.suppress(OSError):
                write_cached(folder, lambda aside: _write(aside, self.batches(rows, encode)), MAX_FOLDERS)
                batches = _read(folder)
        return super().table(rows, encode, name) if batches is None else TokenTable(batches)

    def batches(self, rows: Sequence[AnyRow], encode: EncodeChunk) -> Iterator[pyarrow.RecordBatch]:
        """As `PromptEncoder.batches`, with a progress bar."""
        chunks = Chunks(rows)
        return map(encode, self.progress(chunks) if len(chunks) > 1 else chunks)

    @cached_property
    def _settings_digest(self) -> "HASH | None":
        """The digest of everything but the rows, computed once: a tokenizer takes as long as thousands of rows."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        digest = hashlib.sha256(backend.to_str().encode())
        # Objects made from the tokenizer, and a progress bar, have no value of their own.
        others = ("tokenizer", "literal", "template", "progress")
        settings = {name: value for name, value in vars(self).items() if name not in others}
        template = self.tokenizer.chat_template if self.template else None
        digest.update(repr((sorted(settings.items()), template, TASKS)).encode() + code_digest())
        return digest

    def _fingerprint(self, rows: Sequence[AnyRow], name: object) -> str | None:
        """A digest of everything that the tokens depend on; None where the tokenizer cannot be serialized."""
        if self._settings_digest is None:
            return None
        digest = self._settings_digest.copy()
        digest.update(repr(name).encode())
        # Rows in columns have one already.
        known = getattr(rows, "fingerprint", None)
        for chunk in Chunks(rows) if known is None else ():
            digest.update(marshal.dumps([VALUES[type(row)](row) for row in chunk], MARSHAL_VERSION))
        digest.update(repr((len(rows), known)).encode())
        return digest.hexdigest()[:32]


def _question(record: Record, row: AnyRow) -> Encoded:
    """The inverse of `_record`."""
    count, *marks = record.marks
    ends, spans = marks[: count + 1], marks[count + 1 :]
    options = [list(record.tokens[start:end]) for start, end in pairwise(ends)]
    earlier = tuple(zip(spans[::2], spans[1::2], strict=True))
    prompt = list(record.tokens[: ends[0]])
    return Encoded(row, prompt, options, record.flag, record.shots, earlier, record.untruncated)


def _read(folder: Path) -> list[pyarrow.RecordBatch]:
    reader = ipc.open_file(pyarrow.memory_map(str(folder / FILE)))
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def _write(folder: Path, batches: Iterable[pyarrow.RecordBatch]) -> None:
    with ipc.new_file(str(folder / FILE), SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
