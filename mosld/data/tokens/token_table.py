"""Encoded rows in Arrow: a table that is written chunk by chunk and mapped into memory, not read."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy
import pyarrow

from mosld.data.rows import AnyRow, LazySequence

SCHEMA = pyarrow.schema(
    [
        ("tokens", pyarrow.list_(pyarrow.int32())),
        ("marks", pyarrow.list_(pyarrow.int32())),
        ("untruncated", pyarrow.int32()),
        ("task", pyarrow.int16()),
        ("shots", pyarrow.int16()),
        ("flag", pyarrow.bool_()),
    ]
)
# Rows of a batch, and between two updates of a progress bar.
CHUNK_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Record:
    """One encoded row.

    Attributes:
        tokens: its tokens.
        marks: positions in them.
        untruncated: its tokens before it was shortened; 0 if it was not too long.
        task: the index of its task.
        shots: solved examples in it.
        flag: of a question, whether it was shortened; of a train row, whether it is trained on.
    """

    tokens: Sequence[int]
    marks: Sequence[int]
    untruncated: int
    task: int
    shots: int
    flag: bool


class Chunks(LazySequence[Sequence[AnyRow]]):
    """Rows in chunks, each made when it is asked for."""

    def __init__(self, rows: Sequence[AnyRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return -(-len(self._rows) // CHUNK_ROWS)

    def items(self, indices: range) -> list[Sequence[AnyRow]]:
        """See `LazySequence`."""
        return [self._rows[CHUNK_ROWS * index : CHUNK_ROWS * (index + 1)] for index in indices]


def record_batch(records: Sequence[Record]) -> pyarrow.RecordBatch:
    """The records as one batch of the table."""
    columns = [
        _lists([record.tokens for record in records]),
        _lists([record.marks for record in records]),
        *(pyarrow.array([getattr(one, field.name) for one in records], field.type) for field in list(SCHEMA)[2:]),
    ]
    return pyarrow.record_batch(columns, schema=SCHEMA)


def _lists(rows: Sequence[Sequence[int]]) -> pyarrow.ListArray:
    offsets = numpy.fromiter(accumulate(map(len, rows), initial=0), numpy.int32, len(rows) + 1)
    values = numpy.fromiter(chain.from_iterable(rows), numpy.int32, int(offsets[-1]))
    return pyarrow.ListArray.from_arrays(offsets, values)


class TokenTable(LazySequence[Record]):
    """Encoded rows, each made when it is asked for.

    Attributes:
        lengths: tokens of each row.
        untruncated, task, shots, flag: of each row, as in `Record`.
    """

    def __init__(self, batches: Sequence[pyarrow.RecordBatch]) -> None:
        """Wrap batches of equal size, of which the last may be shorter."""
        self._size = batches[0].num_rows if batches else 1
        # Views of the batches, which a file's pages are read for when they are used.
        self._tokens = [_views(batch.column("tokens")) for batch in batches]
        self._marks = [_views(batch.column("marks")) for batch in batches]
        table = pyarrow.Table.from_batches(batches, SCHEMA)
        self.untruncated, self.task, self.shots, self.flag = (
            table.column(name).to_numpy() for name in ("untruncated", "task", "shots", "flag")
        )
        self.lengths = numpy.concatenate([numpy.diff(offsets) for offsets, _ in self._tokens] or [self.task])

    def __len__(self) -> int:
        return len(self.lengths)

    def items(self, indices: range) -> list[Record]:
        """See `LazySequence`."""
        return [self._record(index) for index in indices]

    def _record(self, index: int) -> Record:
        batch, position = divmod(index, self._size)
        return Record(
            _row(self._tokens[batch], position),
            _row(self._marks[batch], position),
            int(self.untruncated[index]),
            int(self.task[index]),
            int(self.shots[index]),
            bool(self.flag[index]),
        )


def _views(column: pyarrow.ListArray) -> tuple[numpy.ndarray, numpy.ndarray]:
    return column.offsets.to_numpy(), column.values.to_numpy()


def _row(views: tuple[numpy.ndarray, numpy.ndarray], position: int) -> list[int]:
    offsets, values = views
    row: list[int] = values[offsets[position] : offsets[position + 1]].tolist()
    return row
