"""csv and tsv files as people and programs write them: a header, then one record a row, which may span lines.

The separator is the one of , ; tab and | that gives the first rows as many fields as the header has, or what a first
line `sep=;` says. Columns without a name are no columns.

A quotation mark at the start of a field that nobody closed would swallow the rows after it: where the file as the csv
rules have it makes one field of several whole rows, the mark is a letter (if each line then has all its fields) or the
row is bad, and reading goes on with the next line.
"""

import csv
import io
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from mosld.common.errors import UserError
from mosld.data.reading.bad_rows import NOT_UTF8, RowError
from mosld.data.reading.values import is_utf8

SEPARATORS = ",;\t|"
# The separator is found from this many lines.
HEAD_LINES = 50

csv.field_size_limit(sys.maxsize)


class _Lines:
    """The lines of a file, with those of the record being read, which can be given back."""

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text
        self._returned: deque[str] = deque()
        self.taken: list[str] = []
        self.number = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._text)
        self.taken.append(line)
        self.number += 1
        return line

    def give_back(self, keep: int) -> None:
        """Give back all lines of the record but the first `keep`."""
        returned = self.taken[keep:]
        self._returned.extendleft(reversed(returned))
        self.number -= len(returned)
        self.taken = []


def delimited_header(text: io.TextIOBase, path: Path) -> list[str]:
    """The names of the columns; those without a name are left out.

    Raises:
        UserError: there is no header, or two columns have one name.
    """
    return [name for name in _start(text, path)[2] if name]


def delimited_records(text: io.TextIOBase, path: Path) -> Iterator[tuple[int, object]]:
    """The records with their lines, a RowError for each that cannot be read.

    Raises:
        UserError: there is no header, or two columns have one name.
    """
    lines, separator, header = _start(text, path)
    names = [(index, name) for index, name in enumerate(header) if name]
    width = len(header)
    reader = _reader(lines, separator)
    while True:
        line = lines.number + 1
        fields: list[str] | RowError
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields = RowError(f"is not a row of a csv file ({error})", "is not a row of a csv file")
        if isinstance(fields, RowError) or (len(lines.taken) > 1 and _swallows_rows(lines.taken, separator, width)):
            fields = _literal(lines.taken, separator, width, line, fields)
            lines.give_back(1)
            reader = _reader(lines, separator)
        lines.taken.clear()
        if isinstance(fields, RowError):
            yield line, fields
        elif fields[:1] and fields[0].strip("\ufeff ") == header[0] and [*map(str.strip, fields[1:])] == header[1:]:
            yield line, RowError("repeats the header, as in files that were put together")
        elif any(field.strip() for field in fields):
            yield line, _record(fields, names, width)


def _record(fields: list[str], names: list[tuple[int, str]], width: int) -> object:
    if not all(map(is_utf8, fields)):
        return RowError(NOT_UTF8)
    while len(fields) > width and not fields[-1].strip():
        fields.pop()
    if len(fields) != width:
        return RowError(f"has {len(fields)} fields, the header has {width}", "has another number of fields")
    return {name: fields[index] for index, name in names}


def _start(text: io.TextIOBase, path: Path) -> tuple[_Lines, str, list[str]]:
    """The lines after the header, the separator, and the fields of the header, "" for those without a name."""
    lines = _Lines(text)
    head = list(islice(lines, HEAD_LINES))
    named = head[0].rstrip("\r\n").lower() if head else ""
    separator = named[4] if len(named) == 5 and named.startswith("sep=") else ""
    skipped = 1 if separator else 0
    while skipped < len(head) and not head[skipped].strip(f"{SEPARATORS} \r\n"):
        skipped += 1
    separator = separator or _separator(head[skipped:], path)
    lines.give_back(skipped)
    try:
        fields: list[str] = next(_reader(lines, separator), [])
    except csv.Error as error:
        raise UserError(f"{path}:1: is not the header of a csv file ({error}).") from error
    lines.taken.clear()
    # A byte-order mark may stand there twice.
    header = [name.strip("\ufeff").strip() for name in fields]
    if not any(header):
        raise UserError(f"{path}: has no rows.")
    if not all(map(is_utf8, header)):
        raise UserError(f"{path}:1: {NOT_UTF8}.")
    names = [name for name in header if name]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{path}:1: two columns are called '{repeated}'; rename one of them.")
    while not header[-1]:
        header.pop()
    return lines, separator, header


def _separator(head: list[str], path: Path) -> str:
    """The separator with which most of the first lines have as many fields as the header, then the one with most."""
    candidates = SEPARATORS
    if path.name.lower().partition(".tsv")[1] and head and "\t" in head[0]:
        return "\t"

    def fit(separator: str) -> tuple[float, int]:
        reader = _reader(head, separator)
        counts: list[int] = []
        # After a mistake the rest of the lines does not count.
        with suppress(csv.Error):
            counts.extend(len(fields) for fields in reader if fields)
        width = counts[0] if counts else 0
        return (sum(count == width for count in counts) if width > 1 else 0), width

    return max(candidates, key=fit)


def _swallows_rows(taken: list[str], separator: str, width: int) -> bool:
    """Whether a record of several lines holds whole rows: each line, or each but the first and last, has all fields."""
    if width > 1 and all(len(_split(line, separator)) == width for line in taken):
        return True
    inner = taken[1:-1]
    if separator == "\t" or width < 3 or len(inner) < 2:
        return False
    try:
        return all(len(fields) == width for fields in _reader(inner, separator))
    except csv.Error:
        return False


def _literal(
    taken: list[str], separator: str, width: int, line: int, fields: "list[str] | RowError"
) -> "list[str] | RowError":
    r"""What a record is where the csv rules give none.

    The first line with marks inside a field written \" (as Spark and MySQL do), or with marks as letters, if it then
    has all fields; else what is wrong with it.
    """
    if '\\"' in taken[0]:
        with suppress(csv.Error, StopIteration):
            if len(escaped := next(_reader(taken[:1], separator, escape="\\"))) == width:
                return escaped
    split = _split(taken[0], separator)
    if len(split) == width:
        return split
    if len(taken) > 1:
        return RowError(
            f'the mark " opens a field that ends in line {line + len(taken) - 1}, with whole rows in it; close it, or '
            "double the marks inside the field",
            'a mark " opens a field that swallows rows',
        )
    assert isinstance(fields, RowError)
    return fields


def _reader(lines: Iterable[str], separator: str, escape: str | None = None) -> Iterator[list[str]]:
    """A strict reader; spaces between a separator and a quotation mark are left out, but in tabs' files."""
    return csv.reader(
        lines, delimiter=separator, strict=True, skipinitialspace=separator != "\t", escapechar=escape,
        doublequote=escape is None,
    )  # fmt: skip


def _split(line: str, separator: str) -> list[str]:
    return line.rstrip("\r\n").split(separator)
