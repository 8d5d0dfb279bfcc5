"""Rows in Arrow columns: a million take no more memory than their text, and a file of them is mapped, not read."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import numpy
import pyarrow
from pyarrow import compute, ipc

from mosld.data.rows import AnyRow, ColumnarRows, Reply, Row, Solution, hash_of, item

# Rows that are converted at once.
BATCH_ROWS = 1000
_TYPES = {"choices": pyarrow.list_(pyarrow.string()), "history": pyarrow.list_(pyarrow.list_(pyarrow.string()))}
# Hashes of a row: of what it asks, of the passage (or of what it asks), and of everything in it.
HASHES = ("key", "group", "digest")
# An odd number with bits all over, which spreads small numbers over 64 bits.
GOLDEN_RATIO = numpy.uint64(0x9E3779B97F4A7C15)


class RowTable(ColumnarRows):
    """Rows of one kind of one task."""

    def __init__(
        self, table: pyarrow.Table, task: str, kind: type[AnyRow], indices: numpy.ndarray | None = None
    ) -> None:
        """A view of the rows of `indices` (default: all) of a table that `RowTableBuilder` made."""
        self._table = table
        self._task = task
        self._kind = kind
        self._indices = numpy.arange(table.num_rows) if indices is None else indices

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[AnyRow]:
        for start in range(0, len(self), BATCH_ROWS):
            yield from self[start : start + BATCH_ROWS]

    def items(self, indices: range) -> list[AnyRow]:
        """See `LazySequence`."""
        names = [field.name for field in fields(self._kind) if field.name != "task"]
        batch = self._table.select(names).take(pyarrow.array(self._indices[numpy.asarray(indices, numpy.int64)]))
        columns = [_restored(name, batch.column(name).to_pylist()) for name in names]
        return [self._kind(self._task, *values) for values in zip(*columns, strict=True)]

    def take(self, positions: numpy.ndarray) -> "RowTable":
        """See `ColumnarRows`."""
        return RowTable(self._table, self._task, self._kind, self._indices[positions])

    def hashes(self, name: str) -> numpy.ndarray:
        """See `ColumnarRows`; "digest" is of everything in a row."""
        return self._table.column(name).to_numpy()[self._indices]

    @cached_property
    def fingerprint(self) -> str:
        """See `ColumnarRows`."""
        return hashlib.sha256(self._task.encode() + self.hashes("digest").tobytes()).hexdigest()[:16]

    def with_equal_choices(self) -> int:
        """See `ColumnarRows`."""
        return int(self._table.column("equal_choices").to_numpy()[self._indices].sum())

    def write(self, path: Path) -> None:
        """Write all rows of the table to an Arrow file."""
        with ipc.new_file(str(path), self._table.schema) as writer:
            writer.write_table(self._table, max_chunksize=10 * BATCH_ROWS)

    @classmethod
    def joined(cls, tables: "Sequence[RowTable]") -> "RowTable":
        """All rows of several tables of one task."""
        return cls(pyarrow.concat_tables([rows._table for rows in tables]), tables[0]._task, tables[0]._kind)

    @classmethod
    def read(cls, path: Path, task: str, kind: type[AnyRow]) -> "RowTable":
        """Map the rows that `write` wrote."""
        return cls(ipc.open_file(pyarrow.memory_map(str(path))).read_all(), task, kind)


def _type(kind: type[AnyRow], name: str) -> pyarrow.DataType:
    return pyarrow.int32() if kind is Row and name == "answer" else _TYPES.get(name, pyarrow.string())


def _restored(name: str, values: list) -> list:
    if name == "choices":
        return [tuple(value) for value in values]
    if name == "history":
        return [tuple((turn[0], turn[1]) for turn in value) for value in values]
    return values


class RowTableBuilder:
    """Collects rows of one kind."""

    def __init__(self, task: str, kind: type[AnyRow]) -> None:
        """Begin without rows."""
        self._task = task
        self._kind = kind
        self._names = [field.name for field in fields(kind) if field.name != "task"]
        self._schema = pyarrow.schema(
            [
                *((name, _type(kind, name)) for name in self._names),
                *((name, pyarrow.uint64()) for name in HASHES),
                ("equal_choices", pyarrow.bool_()),
            ]
        )
        self._columns: dict[str, list] = {name: [] for name in self._schema.names}
        self._batches: list[pyarrow.RecordBatch] = []

    def add(self, row: AnyRow) -> None:
        """Add a row."""
        columns = self._columns
        values = [getattr(row, name) for name in self._names]
        for name, value in zip(self._names, values, strict=True):
            columns[name].append(value)
        key = hash_of(*item(row))
        columns["key"].append(key)
        columns["group"].append(hash_of(" ".join(row.context.lower().split())) if row.context else key)
        columns["digest"].append(hash_of(repr(values)))
        columns["equal_choices"].append(isinstance(row, Row) and len(set(row.choices)) < len(row.choices))
        if len(columns["key"]) >= 10 * BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._columns["key"]:
            self._batches.append(pyarrow.RecordBatch.from_pydict(self._columns, self._schema))
            self._columns = {name: [] for name in self._schema.names}

    def table(self, answers: numpy.ndarray | None = None) -> RowTable:
        """The rows that were added, their ids made unique.

        Args:
            answers: of choices, the index of the right choice [rows]; rows where it is negative are left out.
        """
        self._flush()
        table = pyarrow.Table.from_batches(self._batches, self._schema)
        if answers is not None:
            number = table.schema.get_field_index("answer")
            table = table.set_column(number, "answer", pyarrow.array(answers, pyarrow.int32()))
            digests = table.column("digest").to_numpy() + answers.astype(numpy.uint64) * GOLDEN_RATIO
            table = table.set_column(table.schema.get_field_index("digest"), "digest", pyarrow.array(digests))
            table = table.filter(pyarrow.array(answers >= 0))
        return RowTable(table, self._task, self._kind)


def unique_ids(rows: RowTable) -> tuple[RowTable, int]:
    """The rows with the ids that several of them share numbered, as in 7/1 and 7/2, and how many rows that are."""
    table = rows._table
    counts = compute.value_counts(table.column("id"))
    repeated = {pair["values"] for pair in counts.filter(compute.greater(counts.field("counts"), 1)).to_pylist()}
    if not repeated:
        return rows, 0
    seen: dict[str, int] = {}
    ids = []
    for row_id in table.column("id").to_pylist():
        if row_id in repeated:
            seen[row_id] = seen.get(row_id, 0) + 1
            row_id = f"{row_id}/{seen[row_id]}"
        ids.append(row_id)
    number = table.schema.get_field_index("id")
    return RowTable(table.set_column(number, "id", pyarrow.array(ids)), rows._task, rows._kind), sum(seen.values())


KINDS: dict[str, type[AnyRow]] = {"choice": Row, "solution": Solution, "reply": Reply, "text": Reply}
