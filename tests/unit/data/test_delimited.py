"""csv and tsv as Excel, pandas, editors and people write them."""

from pathlib import Path

import pytest

from mosld.common.errors import UserError
from mosld.data.reading.bad_rows import RowError
from mosld.data.reading.records import RecordFile

HEADER = ["question", "a", "b", "answer"]
GOOD = [[f"What is {i}?", str(i), "none", "A"] for i in range(9)]


def table(separator: str, rows: list[list[str]] = GOOD, header: list[str] = HEADER) -> str:
    return "".join(separator.join(row) + "\n" for row in [header, *rows])


def read(path: Path, content: bytes | str) -> tuple[list[dict], list[tuple[int, str]]]:
    """The records, and the lines and reasons of the others."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    records = list(RecordFile(path).records())
    bad = [(line, str(record)) for line, record in records if isinstance(record, RowError)]
    return [record for _, record in records if isinstance(record, dict)], bad


@pytest.mark.parametrize(
    "content",
    [
        table(","),
        table(";"),
        table("\t"),
        table("|"),
        "sep=;\n" + table(";"),
        "sep=\t\n" + table("\t"),
        "SEP=,\r\n" + table(",").replace("\n", "\r\n"),
        table(",").encode("utf-8-sig"),
        b"\xef\xbb\xbf" + table(",").encode("utf-8-sig"),
        table("\t").encode("utf-16"),
        table(";").encode("utf-16-be").join([b"\xfe\xff", b""]),
        # Empty columns at the end, the index that pandas writes, blank lines.
        "".join(line + ",,,\n" for line in table(",").splitlines()),
        "".join(f"{'' if i == 0 else i - 1},{line}\n" for i, line in enumerate(table(",").splitlines())),
        table(",").replace("\n", "\n\n"),
        table(",").replace("\n", ",\n", 1).replace("none,A\n", "none,A,\n"),
        # Blank rows before the header, as sheets have them; spaces behind separators.
        ",,,\n\n" + table(","),
        "sep=;\n;;;\n" + table(";"),
        table(",").replace(",none,", ', "none", '),
        # More commas than semicolons.
        table(";").replace("What is", '"Now, then, what, is').replace("?", '?"'),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".tsv"])
def test_table_is_read_whatever_separates_its_columns(content, suffix, tmp_path):
    records, bad = read(tmp_path / f"t{suffix}", content)
    assert (len(records), bad) == (9, [])
    assert {(*record, record["a"].isdigit(), record["answer"]) for record in records} == {(*HEADER, True, "A")}


@pytest.mark.parametrize("separator", ["\t", ","])
@pytest.mark.parametrize(
    "field", ["a{0}b", "two\nlines", "two\r\nlines", 'a "word"', "one\n{0}and\ntwo", "", "\n\n", '"', "x\ny\nz"]
)
def test_rightly_quoted_field_is_read_as_written(separator, field, tmp_path):
    field = field.format(separator)
    quoted = '"' + field.replace('"', '""') + '"'
    rows = [row if i != 4 else [quoted, *row[1:]] for i, row in enumerate(GOOD)]
    records, bad = read(tmp_path / "t.tsv", table(separator, rows))
    assert ([record["question"] for record in records][4], len(records), bad) == (field, 9, [])


@pytest.mark.parametrize(
    "question",
    ['"Stop" is what?', '"Stop', '"To be', '5" of rain', 'Say "hi"', '"'],
)
def test_mark_that_nobody_closed_is_a_letter_in_a_tsv(question, tmp_path):
    rows = [row if i != 2 else [question, *row[1:]] for i, row in enumerate(GOOD)]
    # A field that ends in a mark, ten lines on, would close it.
    rows[7] = [*rows[7][:3], 'A"']
    records, bad = read(tmp_path / "t.tsv", table("\t", rows))
    assert [record["question"] for record in records] == [row[0] for row in rows]
    assert bad == []


def test_mark_that_swallows_rows_of_a_csv_costs_one_row_which_is_named(tmp_path):
    rows = [row if i != 2 else ['"Stop, now?', *row[1:]] for i, row in enumerate(GOOD)]
    rows[7] = [*rows[7][:3], 'A"']
    records, bad = read(tmp_path / "t.csv", table(",", rows))
    assert len(records) == 8
    ((line, reason),) = bad
    assert (line, "ends in line 9" in reason) == (4, True)


def test_mark_behind_a_backslash_is_a_letter(tmp_path):
    rows = [row if i != 2 else [r'"Say \"hi\", now"', *row[1:]] for i, row in enumerate(GOOD)]
    records, bad = read(tmp_path / "t.csv", table(",", rows))
    assert ([record["question"] for record in records][2], len(records), bad) == ('Say "hi", now', 9, [])


def test_header_that_is_repeated_is_named(tmp_path):
    content = b"".join(b"\xef\xbb\xbf" + table(",").encode() for _ in range(2))
    records, bad = read(tmp_path / "t.csv", content)
    assert (len(records), bad) == (18, [(11, "repeats the header, as in files that were put together")])


def test_row_with_another_number_of_fields_is_named_by_its_line(tmp_path):
    _, bad = read(tmp_path / "t.csv", table(",") + "x,y\n" + "1,2,3,4,5\n")
    assert bad == [(11, "has 2 fields, the header has 4"), (12, "has 5 fields, the header has 4")]


def test_row_in_another_encoding_is_told_to_be_saved_as_utf8(tmp_path):
    records, bad = read(tmp_path / "t.csv", table(",").encode() + "Qué?,1,2,A\n".encode("cp1252"))
    assert (len(records), [line for line, _ in bad]) == (9, [11])
    assert "CSV UTF-8" in bad[0][1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no rows"),
        (b"\n\n", "has no rows"),
        (b"q,q\n1,2\n", "two columns are called 'q'"),
        (b"q,\xff\n", "is not UTF-8"),
        (b'"q,a\n1,2\n', "is not the header of a csv file"),
    ],
)
def test_table_without_a_header_is_refused(content, words, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        list(RecordFile(tmp_path / "t.csv").records())


def test_long_field_is_read(tmp_path):
    records, _ = read(tmp_path / "t.csv", table(",", [["x" * 300_000, "1", "2", "A"]]))
    assert len(records[0]["question"]) == 300_000
