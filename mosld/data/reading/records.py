"""Records of data files with the line of each, so that an error can name it.

jsonl           one JSON value a line
json            an array of objects, objects one after another, or one object that holds the array; rows are counted
csv, tsv        see `delimited`
parquet, arrow  typed columns; rows are counted

Each may be compressed (.gz, .zst), and text may be UTF-8 or, with a byte-order mark, UTF-16. Records are read as they
are asked for: a file need not fit in memory, but for JSON that is not one value a line.
"""

import codecs
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType

from mosld.common.errors import UserError
from mosld.common.files import JsonObject
from mosld.config.local_files import data_format, named_split
from mosld.data.reading.bad_rows import NOT_UTF8, RowError, quoted
from mosld.data.reading.delimited import delimited_header, delimited_records
from mosld.data.reading.values import is_utf8

# The line, and the value there; a ValueError where it cannot be read.
Record = tuple[int, object]
# Columns and forms are found from this many records.
HEAD = 1000
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
_JSON = "is JSON; call it .json, .jsonl or .ndjson"
# How files begin that are something else than their suffix says.
_FOREIGN = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the data; fetch it with git lfs pull",
    b"<!doctype html": "is a web page; download the file itself",
    b"<html": "is a web page; download the file itself",
    b"PK\x03\x04": 'is a zip file or an Excel sheet; unpack it, or save the sheet as "CSV UTF-8"',
    b"\xd0\xcf\x11\xe0": 'is an Excel sheet; save it as "CSV UTF-8"',
    b"\x1f\x8b": "is compressed by gzip; add .gz to its name",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; add .zst to its name",
    b"PAR1": "is a parquet file; call it .parquet",
    b"ARROW1": "is an Arrow file; call it .arrow",
    b'{"': _JSON,
    b"[{": _JSON,
    b"[\n": _JSON,
}  # fmt: skip
# Keys of an object that is a row.
_QUESTIONS = ("question", "prompt", "instruction", "query", "problem")
_NULS = "has NUL bytes as UTF-16 without a byte-order mark has; save it as UTF-8"


@dataclass(frozen=True)
class RecordFile:
    """A file of records in any format that is read."""

    path: Path

    def columns(self) -> list[str]:
        """The names of its columns; of JSON those of the first records.

        Raises:
            UserError: the file cannot be read.
        """
        with _explained(self.path):
            _refuse_foreign(self.path)
            form = data_format(self.path)[0]
            if form in (".parquet", ".arrow"):
                return list(_typed().open_typed(self.path, form, _content(self.path))[0].names)
            if form in (".csv", ".tsv"):
                with open_text(self.path) as text:
                    return delimited_header(text, self.path)
            head = (record for _, record in islice(self.records(), HEAD) if isinstance(record, dict))
            return list(dict.fromkeys(str(key) for record in head for key in record))

    def records(self, columns: Collection[str] | None = None) -> Iterator[Record]:
        """The records; one that cannot be read is a ValueError with the reason.

        Args:
            columns: of a typed file the columns to convert; others hold what Python cannot, and nobody reads.

        Raises:
            UserError: the whole file cannot be read.
        """
        form = data_format(self.path)[0]
        with _explained(self.path):
            _refuse_foreign(self.path)
            if form in (".parquet", ".arrow"):
                yield from _typed().typed_records(self.path, form, _content(self.path), columns)
                return
            with open_text(self.path) as text:
                if form in (".csv", ".tsv"):
                    yield from delimited_records(text, self.path)
                elif form == ".json" or _is_one_value(self.path):
                    yield from _json_values(text.read(), self.path)
                else:
                    yield from ((number, _json(line)) for number, line in enumerate(text, 1) if line.strip())


def _refuse_foreign(path: Path) -> None:
    """Refuse a file that is something else than its suffix says.

    Raises:
        UserError: what it is, and what to do.
    """
    with _open(path) as file:
        start = file.peek(64)[:64]
    form = data_format(path)[0]
    for mark, reason in _FOREIGN.items():
        if start.lower().startswith(mark.lower()) and form.strip(".") not in reason:
            raise UserError(f"{path}: {reason}")
    marked = any(start.startswith(mark) for mark, _ in _MARKS)
    if form not in (".parquet", ".arrow") and not marked and len(start) > 1 and b"\0" in start[:2]:
        raise UserError(f"{path}: {_NULS}")


def write_records(path: Path, records: Iterable[JsonObject]) -> None:
    """Write one JSON object per line, in every process."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text(text, encoding="utf-8")


def open_text(path: Path) -> io.TextIOWrapper:
    """A file as text, decompressed; bytes that are not text become lone surrogates."""
    binary = _open(path)
    start = binary.peek(4)
    encoding = next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")
    return io.TextIOWrapper(binary, encoding, errors="surrogateescape", newline="")


def _open(path: Path) -> io.BufferedReader:
    compression = data_format(path)[1]
    if compression == ".gz":
        return io.BufferedReader(gzip.open(path))
    if compression == ".zst":
        return _typed().zstd_stream(path)
    return path.open("rb")


def _content(path: Path) -> bytes | None:
    """What a compressed file holds; None for other files, which are mapped."""
    return _open(path).read() if data_format(path)[1] else None


def _typed() -> ModuleType:
    """The readers that need Arrow, which takes a while to load and which few runs need."""
    from mosld.data.reading import typed

    return typed


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the readers raise for a damaged file into one message."""
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except _DAMAGED as error:
        raise UserError(
            f"{path}: is not a complete {data_format(path)[1]} file ({error or 'it ends early'})"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read: {reason}") from error
    except (UnicodeError, MemoryError) as error:
        raise UserError(f"{path}: cannot be read: {type(error).__name__}: {str(error)[:200]}") from error


def _is_one_value(path: Path) -> bool:
    """Whether a file of lines is JSON as a .json file has it instead: an array, objects over several lines, or one."""
    with open_text(path) as text:
        first, second = [*islice((line.strip() for line in text if line.strip()), 2), "", ""][:2]
    if first[:1] == "[" or first == "{":
        return True
    value = None if second else _json(first)
    return isinstance(value, dict) and all(isinstance(part, dict | list) for part in value.values())


class _KeyTwiceError(ValueError):
    """An object of JSON has a key more than once, of which a parser takes the last without a word."""


def _with_keys_once(pairs: list[tuple[str, object]]) -> JsonObject:
    record = dict(pairs)
    if len(record) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise _KeyTwiceError(f"has the key {quoted(key)} more than once")
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_with_keys_once)


def _json(line: str) -> object:
    if not is_utf8(line):
        return RowError(NOT_UTF8)
    try:
        # A byte-order mark stands inside a file that was put together from several.
        return _DECODER.decode(line.lstrip("\ufeff").rstrip("\r\n"))
    except json.JSONDecodeError as error:
        return RowError(f"is not JSON ({error.msg}, column {error.colno})", "is not JSON")
    except _KeyTwiceError as error:
        return RowError(str(error))
    except (ValueError, RecursionError):
        return RowError("is not JSON (a number too long, or nested too deep)", "is not JSON")


def _json_values(text: str, path: Path) -> Iterator[Record]:
    """The elements of an array, or the objects that stand one after another, with their numbers."""
    if not is_utf8(text):
        raise UserError(f"{path}: {NOT_UTF8}")
    position = _skip(text, 0, "")
    array = text[position : position + 1] == "["
    position = _skip(text, position + array, "")
    number = 0
    first: object = None
    while position < len(text) and not (array and text[position] == "]"):
        try:
            value, position = _DECODER.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}: is not complete JSON ({error.msg}, line {error.lineno}, column {error.colno})"
            ) from error
        except _KeyTwiceError as error:
            raise UserError(f"{path}: row {number + 1} {error}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: is not JSON (a number too long, or nested too deep)") from error
        number += 1
        if number == 2:
            yield 1, first
        if number == 1:
            first = value
        else:
            yield number, value
        position = _skip(text, position, "," if array else "")
    if array and position >= len(text):
        raise UserError(f"{path}: is not a complete JSON array (it ends after {number} rows)")
    rest = _skip(text, position + array, "")
    if rest < len(text):
        line = text.count("\n", 0, rest) + 1
        raise UserError(f"{path}: goes on after its JSON array (line {line}); write one array, or one object a line")
    if number == 1:
        yield from [(1, first)] if array else _lone_object(first, path)


def _skip(text: str, position: int, more: str) -> int:
    """The position after white space and the characters of `more`."""
    while position < len(text) and (text[position].isspace() or text[position] in more):
        position += 1
    return position


def _lone_object(value: object, path: Path) -> Iterator[Record]:
    """The rows of a file that is one object: those of the one array in it, or the object itself."""
    if not isinstance(value, dict):
        yield 1, value
        return
    arrays = {
        name: rows
        for name, rows in value.items()
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
    }
    # {"data": [...], "version": "1.1"}, but not one conversation {"messages": [...]}, nor one question
    row = any({"role", "from"} & set(rows[0]) for rows in arrays.values())
    row = row or any(key.lower() in _QUESTIONS and isinstance(value[key], str) for key in value)
    if row:
        yield 1, value
    elif len(arrays) > 1:
        raise UserError(
            f"{path}: holds several arrays of objects ({', '.join(list(arrays)[:5])}); write the rows to a file of "
            "their own, and those of each split to one of its name (train.json, test.json)"
        )
    elif arrays:
        ((name, rows),) = arrays.items()
        split = named_split(name)
        if split in ("validation", "test") and named_split(path.stem) != split:
            raise UserError(f"{path}: holds rows of '{name}', but its name does not say so; call it {split}.json")
        yield from enumerate(rows, 1)
    elif len(value) > 1 and all(isinstance(column, dict | list) for column in value.values()):
        raise UserError(
            f"{path}: is one JSON object with the keys {', '.join(list(value)[:5])}; write an array of objects, or one "
            "object a line (pandas: to_json(path, orient='records', lines=True))"
        )
    else:
        yield 1, value
