"""Records of a file with the line (of parquet: the row) that each stands in: nothing bad is swallowed.

jsonl      one JSON value a line
csv, tsv   a header, then one record a row, which may span lines; split at the commonest of , ; and tab in the header
parquet    typed columns
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mosld.common.errors import UserError
from mosld.data.parsing import parse_row
from mosld.data.rows import AnyRow
from mosld.data.tasks import TASKS

# PART: Records of a file with the line (of parquet: the row) that each stands in: nothing bad is swallowed. jsonl
# one JSON value a line csv, tsv   a header, then one record a row, which may span lines; split at the commonest of
# , ; and tab in the header parquet    typed columns


Record = tuple[int, Any]  # the line, and what stands there: a ValueError where it cannot be read
Records = Iterator[Record]
ESCAPED = range(0xDC80, 0xDD00)  # what Python makes of a byte that is no UTF-8


def read_records(path: Path) -> Records:
    """The records of a file with their lines; in place of one that cannot be read, a ValueError with the reason.

    Raises:
        UserError: the file as a whole cannot be read.
    """
    try:
        return {".parquet": _parquet, ".jsonl": _jsonl}.get(path.suffix, _csv)(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def parse_rows(path: Path, records: Records, parse: Callable[[int, Any], AnyRow], bad: list[str]) -> list[AnyRow]:
    """The rows that `parse` makes of the records; ``file:line: reason`` is appended to `bad` for each bad one."""
    rows: list[AnyRow] = []
    first_line: dict[str, int] = {}
    for line, record in records:
        try:
            if isinstance(record, ValueError):
                raise record
            row = parse(line, record)
            if row.id in first_line:
                raise ValueError(f"id '{row.id}' stands already in line {first_line[row.id]}")
        except ValueError as error:
            bad.append(f"{path}:{line}: {error}")
        else:
            first_line[row.id] = line
            rows.append(row)
    return rows


def _jsonl(path: Path) -> Records:
    return _json_lines(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"))


def _json_lines(lines: list[bytes]) -> Records:
    for number, raw in enumerate(lines, start=1):
        if raw.strip():
            yield number, _json(raw)


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return ValueError(f"is not UTF-8 (byte {error.start})")
    except json.JSONDecodeError as error:
        return ValueError(f"is no JSON ({error.msg}, column {error.colno})")
    except (ValueError, RecursionError):
        return ValueError("is no JSON (a number too long, or nested too deep)")


def _csv(path: Path) -> Records:
    text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise UserError(f"{path}:1: is no header of a csv file ({error}).") from error
    twice = sorted({name for name in header if header.count(name) > 1})
    if not header or _not_utf8(header) or twice:
        why = f"two columns are called '{twice[0]}'" if twice else "needs a header line, in UTF-8"
        raise UserError(f"{path}:1: {why}.")
    return _csv_rows(reader, header)


def _csv_rows(reader: Any, header: list[str]) -> Records:
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, ValueError(f"is no row of a csv file ({error})")
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


def _parquet(path: Path) -> Records:
    import pyarrow  # takes a while, and few runs need it
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: is no whole parquet file ({str(error).splitlines()[0]})") from error
    return _parquet_rows(table)


def _parquet_rows(table: Any) -> Records:
    number = 0
    for batch in table.to_batches(max_chunksize=1000):
        try:
            found = batch.to_pylist()
        except UnicodeDecodeError:  # somewhere among them
            found = [_parquet_row(batch.slice(place, 1)) for place in range(batch.num_rows)]
        yield from enumerate(found, start=number + 1)
        number += batch.num_rows


def _parquet_row(row: Any) -> Any:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return ValueError("is not UTF-8")


# PART: Reading JSON-lines files of the project's own form: all that is bad is named as file:line: reason.


def read_rows(path: Path, task: str, bad: list[str]) -> list[AnyRow]:
    """The good rows of a benchmark's file; ``file:line: reason`` for each bad one is appended to `bad`."""
    return parse_rows(path, read_records(path), lambda _, record: parse_row(TASKS[task], record), bad)
