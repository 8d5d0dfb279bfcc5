"""Reading rows from disk: every kind of bad row as file:line: reason, what is left out, what is only noted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mosld.common.errors import UserError
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import load_dataset
from mosld.data.prompts import render
from mosld.data.records import read_rows

GOOD = {"id": "a", "context": "", "question": "What?", "choices": ["x", "y"], "answer": 0}


def line(**changes: Any) -> bytes:
    """A good row with some keys changed; a key set to ... is left out."""
    row = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    return json.dumps(row, ensure_ascii=False).encode()


BAD: dict[str, tuple[bytes, str]] = {
    "bad JSON": (b'{"id": "a",', "is no JSON"),
    "a list": (b"[1]", "is no object but a list"),
    "a number": (b"3", "is no object but a number"),
    "null": (b"null", "is no object but null"),
    "not UTF-8": (b'{"id": "\xff"}', "is not UTF-8 (byte 8)"),
    "nested too deep": (b'{"id": ' + b"[" * 100_000, "is no JSON"),
    "no id": (line(id=...), "has no 'id'"),
    "no question": (line(question=...), "has no 'question'"),
    "no choices": (line(choices=...), "has no 'choices'"),
    "no answer": (line(answer=...), "has no 'answer'"),
    "empty id": (line(id=""), "'id' is empty"),
    "empty question": (line(question=" \n"), "'question' is empty"),
    "id of a wrong type": (line(id=3), "'id' must be text, is a number"),
    "question of a wrong type": (line(question=["What?"]), "'question' must be text, is a list"),
    "context of a wrong type": (line(context=3), "'context' must be text, is a number"),
    "context null": (line(context=None), "'context' must be text, is null"),
    "half a surrogate pair": (b'{"id":"a","question":"\\ud800","choices":["x","y"],"answer":0}', "question"),
    "choices of a wrong type": (line(choices={"text": ["x", "y"]}), "'choices' must be a list, is an object"),
    "one choice": (line(choices=["x"]), "needs at least 2"),
    "no choice": (line(choices=[]), "needs at least 2"),
    "choice of a wrong type": (line(choices=["x", 3]), "choice 1 must be text, is a number"),
    "empty choice": (line(choices=["x", " "]), "choice 1 is empty"),
    "answer hidden": (line(answer=None), "'answer' is hidden"),
    "answer too large": (line(answer=2), "'answer' is 2, must lie in 0..1"),
    "answer negative": (line(answer=-1), "'answer' is -1, must lie in 0..1"),
    "answer a letter": (line(answer="A"), "'answer' must be a whole number from 0, is text"),
    "answer a fraction": (line(answer=0.5), "'answer' must be a whole number from 0, is 0.5"),
    "answer a truth value": (line(answer=True), "'answer' must be a whole number from 0, is a truth value"),
    "answer of 5000 digits": (
        b'{"id":"a","question":"q","choices":["x","y"],"answer":' + b"1" * 5000 + b"}",
        "is no JSON",
    ),
}

READ_RIGHTLY: dict[str, tuple[bytes, str]] = {
    "plain": (line(), "What?"),
    "no context": (line(context=...), "What?"),
    "further keys": (line(source="book"), "What?"),
    "CRLF": (line() + b"\r\n", "What?"),
    "no newline at the end": (line(), "What?"),
    "byte-order mark": (b"\xef\xbb\xbf" + line() + b"\n", "What?"),
    "blank lines": (b"\n \n" + line() + b"\n\n", "What?"),
    "U+2028 in a string": (line(question="One\u2028two"), "One\u2028two"),
    "U+0085 in a string": (line(question="One\u0085two"), "One\u0085two"),
    "escaped newline": (line(question="One\ntwo"), "One\ntwo"),
    "a pair of surrogates": (b'{"id":"a","question":"\\ud83d\\ude00","choices":["x","y"],"answer":0}', "\U0001f600"),
    "braces": (line(question="{question} {0} %s"), "{question} {0} %s"),
    "outer spaces": (line(question="  What? "), "What?"),
}


def read(tmp_path: Path, content: bytes) -> tuple[list, list[str]]:
    path, bad = tmp_path / "rows.jsonl", list[str]()
    path.write_bytes(content)
    return read_rows(path, "obqa", bad), [problem.removeprefix(str(path)) for problem in bad]


def write(root: Path, task: str, **splits: list[bytes]) -> None:
    (root / task).mkdir(parents=True, exist_ok=True)
    for split, lines in splits.items():
        (root / task / f"{split}.jsonl").write_bytes(b"\n".join(lines))


def load(root: Path, *tasks: str, training: bool = True, **source: str):
    return load_dataset(DataConfig(tasks=list(tasks)), SourceConfig(name="local", root=str(root), **source), training)


def refusal(root: Path, *tasks: str, **source: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(root, *tasks, **source)
    return caught.value.messages


@pytest.fixture
def root(tmp_path: Path, toy_root: Path) -> Path:
    """A copy of the toy rows that a test may spoil."""
    shutil.copytree(toy_root, tmp_path / "rows")
    return tmp_path / "rows"


def spoil(root: Path, name: str, *lines: bytes) -> None:
    with (root / name).open("ab") as file:
        file.write(b"".join(line + b"\n" for line in lines))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_by_line_and_reason(name: str, tmp_path: Path):
    content, reason = BAD[name]
    _, problems = read(tmp_path, line(id="first") + b"\n" + content)
    assert [problem.startswith(":2: ") and reason in problem for problem in problems] == [True]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_left_out_and_the_others_kept(name: str, tmp_path: Path):
    rows, _ = read(tmp_path, b"\n".join([line(id="first"), BAD[name][0], line(id="last")]))
    assert [row.id for row in rows] == ["first", "last"]


@pytest.mark.parametrize("name", READ_RIGHTLY)
def test_a_row_in_an_unusual_form_is_read_rightly(name: str, tmp_path: Path):
    content, question = READ_RIGHTLY[name]
    rows, problems = read(tmp_path, content)
    assert ([row.question for row in rows], problems) == ([question], [])


def test_a_repeated_id_is_named_with_its_first_line(tmp_path: Path):
    _, problems = read(tmp_path, b"\n\n".join([line(), line()]))
    assert problems == [":3: id 'a' stands already in line 1"]


def test_a_row_that_is_read_has_a_letter_for_each_choice(tmp_path: Path):
    rows, _ = read(tmp_path, line(choices=[f"choice {i}" for i in range(27)]))
    assert [len(render(row, "letter")[1]) for row in rows] in ([], [27])


def test_an_empty_file_has_no_rows_and_no_problems(tmp_path: Path):
    assert read(tmp_path, b"") == ([], [])


def test_all_bad_rows_of_all_files_and_tasks_are_reported_at_once(root: Path):
    spoil(root, "obqa/train.jsonl", b"{", b"3")
    spoil(root, "obqa/test.jsonl", line(answer=None))
    spoil(root, "csqa/train.jsonl", line(choices=["x"]))
    found = refusal(root, "obqa", "csqa")
    assert [message.removeprefix(f"{root}/").split(": ")[0] for message in found[:-1]] == [
        "obqa/train.jsonl:41",
        "obqa/train.jsonl:42",
        "obqa/test.jsonl:21",
        "csqa/train.jsonl:41",
    ]


def test_a_refusal_of_bad_rows_ends_with_their_count_and_a_way_out(root: Path):
    spoil(root, "obqa/train.jsonl", b"{", b"3")
    last = refusal(root, "obqa")[-1]
    assert (last[:10], "source.on_bad_row=skip" in last) == ("2 bad rows", True)


def test_skipped_rows_are_left_out(root: Path):
    spoil(root, "obqa/train.jsonl", b"{", b"3")
    assert len(load(root, "obqa", on_bad_row="skip").train) == 40


def test_skipped_rows_become_a_note_with_their_count(root: Path):
    spoil(root, "obqa/train.jsonl", b"{", b"3")
    assert [note[:10] for note in load(root, "obqa", on_bad_row="skip").notes] == ["2 bad rows"]


def test_good_rows_have_no_notes(root: Path):
    assert load(root, "obqa", "csqa", "arc_e").notes == []


def test_a_source_that_lacks_a_task_says_which_and_how_to_leave_it_out(root: Path):
    first = refusal(root, "obqa", "race", "csqa", "mctest")[0]
    assert ("lacks race, mctest" in first, "data.tasks=[obqa,csqa]" in first) == (True, True)


def test_a_missing_task_is_reported_with_each_missing_file(root: Path):
    found = refusal(root, "obqa", "race")[1:]
    assert [message.rsplit("/", 1)[1] for message in found] == [
        f"{split}.jsonl is missing" for split in ("train", "validation", "test")
    ]


def test_one_missing_split_is_reported(root: Path):
    (root / "obqa" / "validation.jsonl").unlink()
    assert refusal(root, "obqa", "csqa")[1:] == [f"obqa: {root}/obqa/validation.jsonl is missing"]


def test_a_source_without_any_task_is_told_plainly(tmp_path: Path):
    assert "Valid: ." not in refusal(tmp_path, "obqa")[0]


def test_a_source_root_that_is_missing_is_refused(tmp_path: Path):
    assert refusal(tmp_path / "nowhere", "obqa") == [f"source.root={tmp_path}/nowhere: no such directory."]


def test_a_split_without_rows_is_refused_with_its_file(root: Path):
    (root / "obqa" / "test.jsonl").write_text("\n")
    (message,) = refusal(root, "obqa")
    assert ("obqa" in message, "test.jsonl" in message) == (True, True)


def test_without_training_the_test_file_alone_is_needed(root: Path):
    (root / "obqa" / "train.jsonl").unlink()
    (root / "obqa" / "validation.jsonl").unlink()
    assert load(root, "obqa", training=False).counts() == {"obqa": {"train": 0, "validation": 0, "test": 20}}


def test_csqa_needs_no_test_file(root: Path):
    (root / "csqa" / "test.jsonl").unlink()
    assert load(root, "csqa").counts() == {"csqa": {"train": 36, "validation": 4, "test": 20}}


def test_equal_choices_become_a_note_with_their_count_over_all_splits(root: Path):
    duplicate_choices = [line(id=f"twin {i}", question=f"Twin {i}?", choices=["x", "y", "x "]) for i in range(3)]
    spoil(root, "obqa/train.jsonl", duplicate_choices[0])
    spoil(root, "obqa/validation.jsonl", duplicate_choices[1])
    spoil(root, "obqa/test.jsonl", duplicate_choices[2])
    assert load(root, "obqa").notes == ["obqa: 3 rows have two equal choices"]


def test_test_items_that_stand_in_train_become_a_note_with_their_count(root: Path):
    spoil(root, "obqa/train.jsonl", line(id="p", question="Which one?"), line(id="q", question="Where?"))
    spoil(
        root,
        "obqa/test.jsonl",
        line(id="r", question="which  ONE?", choices=["y", "x"]),
        line(id="s", question="Where?", context="Other passage."),
    )
    assert load(root, "obqa").notes == ["obqa: 1 of 22 test items also stand in train"]


def test_a_leak_is_found_whatever_the_case_of_its_choices(root: Path):
    spoil(root, "obqa/train.jsonl", line(id="p", question="Which one?", choices=["x", "y"]))
    spoil(root, "obqa/test.jsonl", line(id="r", question="Which one?", choices=["Y", "x"]))
    assert load(root, "obqa").notes == ["obqa: 1 of 21 test items also stand in train"]
