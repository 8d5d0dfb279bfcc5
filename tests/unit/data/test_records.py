"""Reading the rows of benchmarks: bad rows as file:line: reason, unusual forms, missing files, notes."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from mosld.common.errors import UserError
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import Dataset, load_dataset
from mosld.data.reading.bad_rows import BadRows
from mosld.data.reading.records import RecordFile
from mosld.data.reading.sources import read_rows
from mosld.data.tasks import TASKS
from tests.helpers import refusals
from tests.helpers.bad_rows import BAD, line

READABLE: dict[str, tuple[str, bytes, str]] = {  # task, content of its file, the question that is read
    "plain": ("obqa", line(), "What?"),
    "no context": ("obqa", line(context=...), "What?"),
    "further keys": ("obqa", line(source="book"), "What?"),
    "CRLF": ("obqa", line() + b"\r\n", "What?"),
    "byte-order mark": ("obqa", b"\xef\xbb\xbf" + line() + b"\n", "What?"),
    "blank lines": ("obqa", b"\n \n" + line() + b"\n\n", "What?"),
    "U+2028 in a string": ("obqa", line(question="One\u2028two"), "One\u2028two"),
    "U+0085 in a string": ("obqa", line(question="One\u0085two"), "One\u0085two"),
    "escaped newline": ("obqa", line(question="One\ntwo"), "One\ntwo"),
    "a pair of surrogates": ("obqa", line(question="?").replace(b"?", b"\\ud83d\\ude00"), "\U0001f600"),
    "braces": ("obqa", line(question="{question} {0} %s"), "{question} {0} %s"),
    "outer spaces": ("obqa", line(question="  What? "), "What?"),
    "26 choices": ("obqa", line(choices=[f"choice {i}" for i in range(26)]), "What?"),
    "a solution": ("gsm8k", line("gsm8k"), "How many?"),
    "thousands": ("gsm8k", line("gsm8k", answer="#### 1,200", final="1200"), "How many?"),
    "decimals": ("gsm8k", line("gsm8k", answer="#### 72", final="72.0"), "How many?"),
    "currency": ("gsm8k", line("gsm8k", answer="#### $72 in all", final="72"), "How many?"),
    "negative": ("gsm8k", line("gsm8k", answer="#### -3", final="-3"), "How many?"),
    "no mark": ("gsm8k", line("gsm8k", answer="It is 71 and 1 more."), "How many?"),
    "a heading like the mark": ("gsm8k", line("gsm8k", answer="#### Sum 1\n70+2\n#### 72"), "How many?"),
    "a passage": ("gsm8k", line("gsm8k", context="Tom has 24."), "How many?"),
    "no system prompt": ("openorca", line("openorca", system=...), "Say hi."),
}


def read(tmp_path: Path, task: str, content: bytes) -> tuple[list, list[str]]:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    bad = BadRows()
    rows = read_rows([path], TASKS[task], "train", bad)
    return rows, [message.removeprefix(str(path)) for message in bad.messages]


def load(root: Path, *tasks: str, training: bool = True, **source: str) -> Dataset:
    return load_dataset(DataConfig(tasks=list(tasks)), SourceConfig(name="local", root=str(root), **source), training)


def refusal(root: Path, *tasks: str) -> list[str]:
    return [message.removeprefix(f"{root}/") for message in refusals.refusal(load, root, *tasks)]


@pytest.fixture
def root(tmp_path: Path, mixed_root: Path) -> Path:
    """A copy of the toy rows that a test may spoil."""
    shutil.copytree(mixed_root, tmp_path / "rows")
    return tmp_path / "rows"


def append(root: Path, name: str, *lines: bytes) -> None:
    with (root / name).open("ab") as file:
        file.write(b"".join(line + b"\n" for line in lines))


@pytest.mark.parametrize(("task", "kind"), [(task, kind) for task, kinds in BAD.items() for kind in kinds])
def test_bad_row_is_named_by_line_and_left_out(task, kind, tmp_path):
    content, reason = BAD[task][kind]
    rows, errors = read(tmp_path, task, b"\n".join([line(task, id="first"), content, line(task, id="last")]))
    assert [row.id for row in rows] == ["first", "last"]
    assert [error.startswith(":2: ") and reason in error for error in errors] == [True]


@pytest.mark.parametrize("form", READABLE)
def test_row_in_unusual_form_is_read(form, tmp_path):
    task, content, question = READABLE[form]
    rows, errors = read(tmp_path, task, content)
    assert ([row.question for row in rows], errors) == ([question], [])


ARRAY = b'[{"question": "One?", "answer": "1"}]'


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", ARRAY + b"\n" + ARRAY, r"goes on after its JSON array \(line 2\)"),
        ("a.json", ARRAY + b'\n{"question": "Two?"}', r"goes on after its JSON array \(line 2\)"),
        ("a.json", ARRAY[:-1] + b',{"a": 1, "a": 2}]', "row 2 has the key 'a' more than once"),
        ("a.json", b'{"test": ' + ARRAY + b"}", r"holds rows of 'test', .*call it test\.json"),
        (
            "a.json",
            b'{"train": ' + ARRAY + b', "n": 1, "test": ' + ARRAY + b"}",
            "several arrays of objects .train, test",
        ),
        ("a.jsonl", b'{"question": ["One?"], "answer": ["1"]}', "is one JSON object with the keys question, answer"),
        ("a.csv", ARRAY, r"is JSON; call it \.json"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("a.csv", b"<!DOCTYPE html><html>404</html>", "is a web page"),
        ("a.csv", b"PK\x03\x04...", "is a zip file or an Excel sheet"),
        ("a.jsonl", gzip.compress(ARRAY, mtime=0), r"is compressed by gzip; add \.gz"),
        ("a.jsonl", b"PAR1...", r"is a parquet file; call it \.parquet"),
        ("a.csv", "question,answer\n".encode("utf-16-le"), "NUL bytes as UTF-16 without a byte-order mark"),
    ],
)
def test_file_that_is_something_else_is_refused_in_one_line(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        list(RecordFile(tmp_path / name).records())


def test_byte_order_marks_inside_a_file_of_lines_are_passed_over(tmp_path):
    (tmp_path / "a.jsonl").write_bytes((b"\xef\xbb\xbf" + ARRAY[1:-1] + b"\n") * 3)
    assert [record for _, record in RecordFile(tmp_path / "a.jsonl").records()] == [json.loads(ARRAY)[0]] * 3


def test_empty_file_has_no_rows_and_no_errors(tmp_path):
    assert read(tmp_path, "obqa", b"") == ([], [])


def test_bad_rows_of_all_files_are_reported_at_once_with_their_number_and_the_key_to_skip_them(root):
    append(root, "obqa/train.jsonl", b"{", b"3")
    append(root, "obqa/test.jsonl", line(answer=None))
    append(root, "gsm8k/train.jsonl", line("gsm8k", final="x"))
    *errors, last = refusal(root, "obqa", "gsm8k")
    assert [error.split(": ")[0] for error in errors] == [
        "obqa/train.jsonl:41", "obqa/train.jsonl:42", "obqa/test.jsonl:21", "gsm8k/train.jsonl:41",
    ]  # fmt: skip
    assert last == "4 bad rows: correct what is wrong, or leave such rows out with source.on_bad_row=skip."


def test_skipped_rows_are_left_out_and_noted(root):
    append(root, "obqa/train.jsonl", b"{", b"3")
    dataset = load(root, "obqa", on_bad_row="skip")
    assert len(dataset.train) == 40
    assert dataset.notes == [
        f"2 bad rows left out (source.on_bad_row=skip), the first: {root}/obqa/train.jsonl:41: is not JSON "
        "(Expecting property name enclosed in double quotes, column 2)"
    ]


def test_good_rows_have_no_notes(root):
    assert load(root, "obqa", "csqa", "arc_e", "gsm8k").notes == []


def test_missing_tasks_are_named_with_their_files_and_how_to_leave_them_out(root):
    first, *others = refusal(root, "obqa", "race", "csqa", "mctest")
    assert first == f"source.root={root} lacks race, mctest; leave them out with data.tasks=[obqa,csqa]"
    assert others == [
        f"{task}: {root}/{task}/{split}.jsonl is missing"
        for task in ("race", "mctest")
        for split in ("train", "validation", "test")
    ]


def test_one_missing_split_is_named(root):
    (root / "obqa" / "validation.jsonl").unlink()
    assert refusal(root, "obqa", "csqa")[1:] == [f"obqa: {root}/obqa/validation.jsonl is missing"]


def test_source_without_tasks_lists_no_valid_names(tmp_path):
    assert "Valid: ." not in refusal(tmp_path, "obqa")[0]


def test_missing_directory_is_refused(tmp_path):
    assert refusal(tmp_path / "nowhere", "obqa") == [f"source.root={tmp_path}/nowhere: no such directory."]


def test_split_without_rows_is_refused_with_its_file(root):
    (root / "obqa" / "test.jsonl").write_text("\n")
    assert refusal(root, "obqa") == [f"obqa: no rows for test in train, validation, test of {root}"]


def test_scoring_needs_the_test_file_only(root):
    (root / "obqa" / "train.jsonl").unlink()
    (root / "obqa" / "validation.jsonl").unlink()
    assert load(root, "obqa", training=False).counts() == {"obqa": {"train": 0, "validation": 0, "test": 20}}


def test_csqa_needs_no_test_file(root):
    (root / "csqa" / "test.jsonl").unlink()
    assert load(root, "csqa").counts() == {"csqa": {"train": 36, "validation": 4, "test": 20}}


def test_equal_choices_are_noted_with_their_number_over_all_splits(root):
    for split in ("train", "validation", "test"):
        append(root, f"obqa/{split}.jsonl", line(id="twin", question=f"Twin of {split}?", choices=["x", "y", "x "]))
    assert load(root, "obqa").notes == ["obqa: 3 rows have two equal choices"]
