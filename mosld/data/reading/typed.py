"""Parquet and Arrow files, whose columns have types."""

import io
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow
from pyarrow import RecordBatch, Schema, ipc, parquet

from mosld.common.errors import UserError
from mosld.data.reading.bad_rows import NOT_UTF8, RowError

# Rows that are converted at once.
BATCH_ROWS = 1000


def zstd_stream(path: Path) -> io.BufferedReader:
    """A file that zstd compressed, decompressed."""
    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


def open_typed(path: Path, form: str, content: bytes | None) -> tuple[Schema, Iterator[RecordBatch]]:
    """Schema and batches of a parquet or Arrow file.

    Args:
        path: the file.
        form: ".parquet" or ".arrow".
        content: of a compressed file what it holds.

    Raises:
        UserError: it is damaged.
    """
    source = str(path) if content is None else pyarrow.BufferReader(content)
    try:
        if form == ".parquet":
            file = parquet.ParquetFile(source)
            return _distinct(path, file.schema_arrow), file.iter_batches(batch_size=BATCH_ROWS)
        source = pyarrow.memory_map(source) if isinstance(source, str) else source
        try:
            reader = ipc.open_file(source)
        except pyarrow.ArrowInvalid:
            source.seek(0)
            stream = ipc.open_stream(source)
            return _distinct(path, stream.schema), iter(stream)
        return _distinct(path, reader.schema), (reader.get_batch(i) for i in range(reader.num_record_batches))
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"{path}: is not a complete {form[1:]} file ({str(error).splitlines()[0][:200]})") from error


def _distinct(path: Path, schema: Schema) -> Schema:
    repeated = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{path}: two columns are called '{repeated}'; rename one of them.")
    return schema


def typed_records(
    path: Path, form: str, content: bytes | None, columns: Collection[str] | None
) -> Iterator[tuple[int, object]]:
    """The records of a parquet or Arrow file with their numbers; see `records.RecordFile.records`."""
    schema, batches = open_typed(path, form, content)
    wanted = [name for name in schema.names if columns is None or name in columns]
    number = 0
    try:
        for whole in batches:
            if form == ".arrow":
                # Nothing has checked the offsets in it yet, and a wrong one ends the process.
                whole.validate(full=True)
            for start in range(0, whole.num_rows, BATCH_ROWS):
                batch = whole.slice(start, BATCH_ROWS).select(wanted)
                for row in _converted(batch):
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: is not a complete {form[1:]} file (after row {number}: {reason})") from error


def _converted(batch: RecordBatch) -> Iterable[object]:
    # An Arrow error here is one of the values, not of the file.
    failures = (UnicodeDecodeError, OverflowError, ValueError, pyarrow.ArrowException)
    try:
        return batch.to_pylist(maps_as_pydicts="lossy")
    except failures:
        return [_converted_row(batch.slice(index, 1), failures) for index in range(batch.num_rows)]


def _converted_row(row: RecordBatch, failures: tuple[type[Exception], ...]) -> Mapping[str, object] | RowError:
    values: dict[str, object] = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            values[name] = column[0].as_py(maps_as_pydicts="lossy")
        except UnicodeDecodeError:
            return RowError(f"'{name}' {NOT_UTF8}")
        except failures as error:
            return RowError(f"'{name}' cannot be converted ({column.type}: {str(error).splitlines()[0][:100]})", name)
    return values
