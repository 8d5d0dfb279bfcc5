"""Files that others may have written: read whole and of the right shape, or refused in one message with the path."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Required

import pytest
from typing_extensions import TypedDict

from mosld.common.errors import UserError
from mosld.common.files import file_state, read_json
from mosld.common.reading import MAX_BYTES, load_json, load_yaml, read_lines

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "cut off within a text": (b'a: "b', "is no YAML"),
    "a list": (b"- 1", "holds no map"),
    "a number": (b"5", "holds no map"),
    "empty": (b"", "is damaged"),
    "no UTF-8": (b"a: \xff", "byte 3 is no UTF-8"),
    "a key that is no text": (b"1: 2", "1"),
    "an alias in itself": (b"a: &a [1, *a]", "within what it names"),
    "a bomb": (BOMB.encode(), "repeat more than 1,000,000"),
    "deep lists": (b"a: " + b"[" * 100_000, "nested more than 100 deep"),
    "deep maps": ("".join(f"{' ' * i}a:\n" for i in range(300)).encode(), "nested more than 100 deep"),
    "a number of 5,000 digits": (b"a: " + b"9" * 5000, "is no YAML"),
    "code": (b"a: !!python/object/apply:os.system ['true']", "is no YAML"),
    "a tag that does not fit": (b"a: !!bool x", "is no YAML"),
    "a date that is none": (b"a: 2001-99-99", "is no YAML"),
}
JSON = {
    "cut off": (b'{"a": ', "is no JSON"),
    "no UTF-8": (b'{"a": "\xff"}', "byte 7 is no UTF-8"),
    "a list": (b"[]", "is damaged"),
    "null": (b"null", "is damaged"),
    "deep": (b"[" * 100_000, "is no JSON"),
    "a number of 5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON"),
    "a value of another type": (b'{"a": "1"}', "a: Input should be a valid integer"),
    "true for a number": (b'{"a": true}', "a: Input should be a valid integer"),
    "a key is missing": (b'{"b": [1]}', "a: Field required"),
    "a wrong entry of a list": (b'{"a": 1, "b": [1, null]}', "b.1: Input should be a valid integer"),
}


class Shape(TypedDict, total=False):
    a: Required[int]
    b: list[int]


@dataclass
class Place:
    a: int
    b: float = 0.0


@pytest.mark.parametrize(("content", "message"), YAML.values(), ids=YAML)
def test_wrong_yaml_is_refused(content, message, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        load_yaml(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)
    assert len(refused.value.messages) == 1
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("content", "message"), JSON.values(), ids=JSON)
def test_wrong_json_is_refused(content, message, tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        load_json(path, Shape)
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_whole_files_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &x {b: [1, 2.5]}\nc: *x\n")
    (tmp_path / "a.json").write_text('{"a": 1, "b": [2], "more": null}')
    assert load_yaml(tmp_path / "a.yaml") == {"a": {"b": [1, 2.5]}, "c": {"b": [1, 2.5]}}
    assert load_json(tmp_path / "a.json", Shape) == {"a": 1, "b": [2], "more": None}
    (tmp_path / "b.json").write_text('{"a": 1, "b": 2}')
    assert load_json(tmp_path / "b.json", Place) == Place(1, 2.0)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: cannot be read: No such file"):
        load_json(tmp_path / "none.json", Shape)
    assert read_json(tmp_path / "none.json") is None


def _large(path):
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)


NO_TEXT = {
    "a pipe without a writer": (lambda path: os.mkfifo(path), "it is no regular file", None),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is no regular file", None),
    "a directory": (Path.mkdir, "Is a directory", None),
    "a link to itself": (lambda path: path.symlink_to(path), "Too many levels", None),
    "a sparse file": (_large, "has more than 1,073,741,824 bytes", {"bytes": MAX_BYTES + 1}),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize(("make", "message", "state"), NO_TEXT.values(), ids=NO_TEXT)
def test_what_cannot_be_read_to_its_end_is_refused_at_once(make, message, state, tmp_path):
    path = tmp_path / "a.json"
    make(path)
    with pytest.raises(UserError, match=message):
        load_json(path, Shape)
    assert file_state(path, [{"bytes": 3, "sha256": "0"}]) == state


def test_only_a_line_feed_ends_a_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": "1\u2028\x85 2"}\n\n{}\n', encoding="utf-8")
    assert [json.loads(line) for line in read_lines(tmp_path / "a.jsonl")] == [{"a": "1\u2028\x85 2"}, {}]
