"""Records of data files with the line (in parquet: the row) of each, so that an error can name it.

jsonl      one JSON value a line
csv, tsv   a header, then one record a row, which may span lines; the delimiter is the commonest of , ; and tab in the
           header
parquet    typed columns
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mosld.common.errors import UserError
from mosld.common.files import JsonObject
from mosld.data.rows import AnyRow

if TYPE_CHECKING:
    from _csv import Reader

    from pyarrow import RecordBatch, Table

# The line, and the value there; a ValueError where it cannot be read.
Record = tuple[int, object]
# What `surrogateescape` makes of bytes that are not UTF-8.
ESCAPED = range(0xDC80, 0xDD00)


def write_records(path: Path, records: Iterable[JsonObject]) -> None:
    """Write one JSON object per line, in every process."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text(text, encoding="utf-8")


def read_records(path: Path) -> Iterator[Record]:
    """Read the records of a file with their lines; one that cannot be read is a ValueError with the reason.

    Raises:
        UserError: the whole file cannot be read.
    """
    try:
        return {".parquet": _parquet, ".jsonl": _jsonl}.get(path.suffix, _csv)(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def parse_rows(
    path: Path, records: Iterable[Record], parse: Callable[[int, object], AnyRow], errors: list[str]
) -> list[AnyRow]:
    """Turn records into rows with `parse`; ``file:line: reason`` is appended to `errors` for each bad one."""
    rows: list[AnyRow] = []
    first_lines: dict[str, int] = {}
    for line, record in records:
        if isinstance(record, ValueError):
            errors.append(f"{path}:{line}: {record}")
            continue
        try:
            row = parse(line, record)
        except ValueError as error:
            errors.append(f"{path}:{line}: {error}")
            continue
        if row.id in first_lines:
            errors.append(f"{path}:{line}: id '{row.id}' is already used in line {first_lines[row.id]}")
        else:
            first_lines[row.id] = line
            rows.append(row)
    return rows


def _jsonl(path: Path) -> Iterator[Record]:
    lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    return ((number, _json(line)) for number, line in enumerate(lines, start=1) if line.strip())


def _json(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return ValueError(f"is not UTF-8 (byte {error.start})")
    except json.JSONDecodeError as error:
        return ValueError(f"is not JSON ({error.msg}, column {error.colno})")
    except (ValueError, RecursionError):
        return ValueError("is not JSON (a number too long, or nested too deep)")


def _csv(path: Path) -> Iterator[Record]:
    text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    first_line = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first_line.count), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise UserError(f"{path}:1: is not the header of a csv file ({error}).") from error
    repeated = sorted({name for name in header if header.count(name) > 1})
    if not header or _not_utf8(header) or repeated:
        reason = f"two columns are called '{repeated[0]}'" if repeated else "needs a header line, in UTF-8"
        raise UserError(f"{path}:1: {reason}.")
    return _csv_rows(reader, header)


def _csv_rows(reader: "Reader", header: list[str]) -> Iterator[Record]:
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, ValueError(f"is not a row of a csv file ({error})")
            continue
        if not any(field.strip() for field in fields):
            continue
        if _not_utf8(fields):
            yield line, ValueError("is not UTF-8")
        elif len(fields) != len(header):
            yield line, ValueError(f"has {len(fields)} fields, the header has {len(header)}")
        else:
            yield line, dict(zip(header, fields, strict=True))


def _not_utf8(fields: list[str]) -> bool:
    return any(ord(letter) in ESCAPED for field in fields for letter in field)


def _parquet(path: Path) -> Iterator[Record]:
    # Takes a while, and few runs need it.
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: is not a complete parquet file ({str(error).splitlines()[0]})") from error
    return enumerate(_parquet_rows(table), start=1)


def _parquet_rows(table: "Table") -> Iterator[object]:
    for batch in table.to_batches(max_chunksize=1000):
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:
            # In one of these rows.
            yield from (_parquet_row(batch.slice(index, 1)) for index in range(batch.num_rows))


def _parquet_row(row: "RecordBatch") -> object:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return ValueError("is not UTF-8")
