"""gsm8k's rows: what can be wrong with one, its splits and leaks, and the text and tokens that it is trained on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mosld.common.errors import UserError
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import load_dataset
from mosld.data.encoding import encode_train
from mosld.data.prompts import PromptEncoder, render
from mosld.data.records import read_rows
from mosld.data.rows import Solution
from mosld.data.tasks import TASKS

GOOD = {"id": "a", "question": "How many?", "answer": "24+48 = <<24+48=72>>72\n#### 72", "final": "72"}
ROW = Solution("gsm8k", "1", "", "How many?", GOOD["answer"], "72")


def line(**changes: Any) -> bytes:
    """A good row with some keys changed; a key set to ... is left out."""
    row = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    return json.dumps(row, ensure_ascii=False).encode()


BAD: dict[str, tuple[bytes, str]] = {
    "bad JSON": (b'{"id": "a",', "is no JSON"),
    "a list": (b"[1]", "is no object but a list"),
    "not UTF-8": (b'{"id": "\xff"}', "is not UTF-8 (byte 8)"),
    "no id": (line(id=...), "has no 'id'"),
    "no question": (line(question=...), "has no 'question'"),
    "no answer": (line(answer=...), "has no 'answer'"),
    "no final": (line(final=...), "has no 'final'"),
    "empty id": (line(id=""), "'id' is empty"),
    "empty question": (line(question=" "), "'question' is empty"),
    "empty answer": (line(answer="\n"), "'answer' is empty"),
    "empty final": (line(final=""), "'final' is empty"),
    "id of a wrong type": (line(id=3), "'id' must be text, is a number"),
    "question of a wrong type": (line(question=["What?"]), "'question' must be text, is a list"),
    "answer hidden": (line(answer=None), "'answer' must be text, is null"),
    "final of a wrong type": (line(final=72), "'final' must be text, is a number"),
    "context of a wrong type": (line(context=3), "'context' must be text, is a number"),
    "half a surrogate pair": (line().replace(b"24+48 =", b"\\ud800"), "'answer' holds half a surrogate pair"),
    "final no number": (line(final="seventy"), "'final' is no number: 'seventy'"),
    "final two numbers": (line(final="72 73"), "'final' is no number: '72 73'"),
    "another number": (line(final="73"), "'final' is 73, but 'answer' ends in #### 72"),
    "text after the number": (line(answer="#### 72\nThat is so."), "'answer' goes on after its line '#### 72'"),
}

READ_RIGHTLY: dict[str, bytes] = {
    "plain": line(),
    "thousands": line(answer="#### 1,200", final="1200"),
    "decimals": line(answer="#### 72", final="72.0"),
    "currency": line(answer="#### $72 in all", final="72"),
    "negative": line(answer="#### -3", final="-3"),
    "no mark": line(answer="It is 71 and 1 more."),
    "a heading of the same form": line(answer="#### Sum 1\n70+2\n#### 72"),
    "further keys": line(choices=["a"], source="book"),
    "a passage": line(context="Tom has 24."),
}


def read(tmp_path: Path, content: bytes) -> tuple[list, list[str]]:
    path, bad = tmp_path / "rows.jsonl", list[str]()
    path.write_bytes(content)
    return read_rows(path, "gsm8k", bad), [problem.removeprefix(str(path)) for problem in bad]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_by_line_and_reason_and_left_out(name: str, tmp_path: Path):
    content, reason = BAD[name]
    rows, problems = read(tmp_path, line(id="first") + b"\n" + content)
    assert ([row.id for row in rows], len(problems)) == (["first"], 1)
    assert problems[0].startswith(":2: ")
    assert reason in problems[0]


@pytest.mark.parametrize("name", READ_RIGHTLY)
def test_a_row_in_an_unusual_form_is_read_rightly(name: str, tmp_path: Path):
    (row,), problems = read(tmp_path, READ_RIGHTLY[name])
    assert (type(row), problems) == (Solution, [])


def test_a_repeated_id_is_named_with_its_first_line(tmp_path: Path):
    assert read(tmp_path, line() + b"\n" + line())[1] == [":2: id 'a' stands already in line 1"]


@pytest.fixture
def source(mixed_root: Path) -> SourceConfig:
    return SourceConfig(name="local", root=str(mixed_root))


def test_a_tenth_of_train_is_held_out_as_validation(source: SourceConfig):
    found = load_dataset(DataConfig(tasks=["obqa", "gsm8k"], limit=10), source)
    assert found.counts()["gsm8k"] == {"train": 10, "validation": 4, "test": 20}


def test_bad_rows_of_both_kinds_of_tasks_are_reported_at_once(tmp_path: Path):
    for task in ("obqa", "gsm8k"):
        (tmp_path / task).mkdir()
        for split in ("train", "validation", "test"):
            (tmp_path / task / f"{split}.jsonl").write_bytes(b"{")
    with pytest.raises(UserError) as caught:
        load_dataset(DataConfig(tasks=["obqa", "gsm8k"]), SourceConfig(name="local", root=str(tmp_path)))
    places = [message.split(":")[0].removeprefix(f"{tmp_path}/") for message in caught.value.messages[:-1]]
    assert places == [
        *(f"obqa/{s}.jsonl" for s in ("train", "validation", "test")),
        "gsm8k/train.jsonl",
        "gsm8k/test.jsonl",
    ]


def test_a_test_question_that_also_stands_in_train_is_counted(tmp_path: Path):
    (tmp_path / "gsm8k").mkdir()
    train = [line(id=f"{i}", question=f"How many are {i}?") for i in range(20)]
    (tmp_path / "gsm8k" / "train.jsonl").write_bytes(b"\n".join(train))
    test = [line(question=f"how many  are {i}?", id=f"{i}") for i in range(20)]
    (tmp_path / "gsm8k" / "test.jsonl").write_bytes(b"\n".join(test))
    found = load_dataset(DataConfig(tasks=["gsm8k"]), SourceConfig(name="local", root=str(tmp_path)))
    assert found.notes == ["gsm8k: 18 of 20 test items also stand in train"]  # two are held out


@pytest.mark.parametrize("split", ["train", "test"])
def test_bundled_rows_are_good_rows(split: str):
    found = load_dataset(DataConfig(tasks=["gsm8k"]), SourceConfig())
    assert (len(getattr(found.tasks["gsm8k"], split)), found.notes) == ({"train": 720, "test": 200}[split], [])


TRAINED: dict[str, tuple[str, str, str]] = {
    "marks of a calculator": (GOOD["answer"], "72", " 24+48 = 72\n#### 72"),
    "no marks": ("24+48 = 72\n#### 72", "72", " 24+48 = 72\n#### 72"),
    "no number at the end": ("24+48 = 72.", "72", " 24+48 = 72.\n#### 72"),
    "the number alone": ("#### 72", "72", " #### 72"),
    "thousands": ("600*2 = 1,200\n#### 1,200", "1200", " 600*2 = 1,200\n#### 1200"),
    "a heading of the same form": ("#### Sum 1\n70+2\n#### 72", "72", " #### Sum 1\n70+2\n#### 72"),
}


@pytest.mark.parametrize("style", ["letter", "list", "cloze"])
@pytest.mark.parametrize("kind", TRAINED)
def test_a_solution_is_put_as_this_text_whatever_the_prompt_format(kind: str, style: str):
    answer, final, text = TRAINED[kind]
    row = Solution("gsm8k", "1", "", "How many?", answer, final)
    assert render(row, style) == ("Question: How many?\nAnswer:", [text])


def test_a_passage_stands_before_the_question():
    row = Solution("gsm8k", "1", "Tom has 24.", "How many?", "#### 72", "72")
    assert render(row, "cloze")[0] == "Tom has 24.\n\nQuestion: How many?\nAnswer:"


def test_the_loss_is_on_the_solution_and_the_end_alone(tokenizer):
    (found,) = encode_train([ROW], PromptEncoder(tokenizer, "letter"), tokenizer.eos_token_id).examples
    assert tokenizer.decode(found.tokens[: found.answer_start]) == "Question: How many?\nAnswer:"
    assert tokenizer.decode(found.tokens[found.answer_start :]) == " 24+48 = 72\n#### 72</s>"


@pytest.mark.parametrize(("spare", "left_out"), [(0, 0), (-1, 1)])
def test_a_solution_longer_than_the_cutoff_is_left_out_whole_and_counted(tokenizer, spare: int, left_out: int):
    room = TASKS["gsm8k"].cutoff - len("Question: How many?\nAnswer: \n#### 72") - spare
    found = encode_train(
        [ROW, Solution("gsm8k", "2", "", "How many?", "x" * room, "72")], PromptEncoder(tokenizer, "letter"), 0
    )
    assert (len(found.examples), found.cut, found.left_out) == (2 - left_out, 0, left_out)


def test_a_prompt_to_be_answered_has_no_options(tokenizer):
    (found,) = PromptEncoder(tokenizer, "letter").encode([ROW], keep=lambda row: ())
    assert (tokenizer.decode(found.prompt), found.options) == ("Question: How many?\nAnswer:", [])


REAL = Path(__file__).parents[4] / "shared" / "data" / "gsm8k"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is missing: the published rows are not part of the project")
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_published_row_is_good_and_its_text_ends_in_its_number(split: str):
    bad: list[str] = []
    rows = read_rows(REAL / f"{split}.jsonl", "gsm8k", bad)
    assert (len(rows), bad) == ({"train": 7473, "test": 1319}[split], [])
    texts = [(row, render(row, "letter")[1][0]) for row in rows if isinstance(row, Solution)]
    wrong = [row.id for row, text in texts if not re.search(rf"[^#\n]\n#### {row.final}\Z", text) or "<<" in text]
    assert wrong == []
