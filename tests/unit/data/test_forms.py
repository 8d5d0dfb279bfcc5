"""The forms in which people keep rows, each read without a map and said in one line."""

import datetime
import decimal
import gzip
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import Dataset, load_dataset
from mosld.data.rows import Reply, Row, Solution

# What a row should be, without its task and id.
CHOICE = Row("", "", "", "What is 3 doubled?", ("6", "none"), 0)
NESTED = [{"label": "A", "text": "6"}, {"label": "B", "text": "none"}]
REPLY = Reply("", "", "", "Double 3.", "6")
TURNS = Reply("", "", "", "Once more.", "12", "Be short.", (("Double 3.", "6"),))
MESSAGES = [
    ("system", "Be short."),
    ("user", "Double 3."),
    ("assistant", "6"),
    ("user", "Once more."),
    ("assistant", "12"),
]


def openai(**names: str) -> list[dict[str, str]]:
    return [{"role": names.get(role, role), "content": text} for role, text in MESSAGES]


def sharegpt() -> list[dict[str, str]]:
    names = {"user": "human", "assistant": "gpt"}
    return [{"from": names.get(role, role), "value": text} for role, text in MESSAGES]


# By form: a record in it, and the row that it is.
FORMS: dict[str, tuple[dict, object]] = {
    "letter": ({"question": CHOICE.question, "choices": ["6", "none"], "answer": "A"}, CHOICE),
    "options": ({"question": CHOICE.question, "options": ["6", "none"], "answer": "A"}, CHOICE),
    "index": ({"question": CHOICE.question, "choices": ["6", "none"], "label": 0}, CHOICE),
    "index as a float": ({"question": CHOICE.question, "choices": ["6", "none"], "label": 0.0}, CHOICE),
    "capitals": ({"Question": CHOICE.question, "Choices": ["6", "none"], "Answer": "a"}, CHOICE),
    "text": ({"question": CHOICE.question, "choices": ["6", "none"], "answer": "6"}, CHOICE),
    "number as a choice": (
        {"question": CHOICE.question, "choices": [6, 9], "answer": 6}, replace(CHOICE, choices=("6", "9")),
    ),
    "object of choices": ({"question": CHOICE.question, "choices": {"A": "6", "B": "none"}, "answer": "A"}, CHOICE),
    "list of labels and texts": ({"question": CHOICE.question, "choices": NESTED, "answerKey": "A"}, CHOICE),
    "labels and texts": (
        {"question": CHOICE.question, "choices": {"label": ["A", "B"], "text": ["6", "none"]}, "answerKey": "A"},
        CHOICE,
    ),
    "a system prompt in parts": ({"messages": openai()[1:], "system": [{"text": "Be "}, {"text": "short."}]}, TURNS),
    "stem": ({"question": {"stem": CHOICE.question, "choices": NESTED}, "answerKey": "A"}, CHOICE),
    "JSON in a cell": ({"question": CHOICE.question, "choices": '["6", "none"]', "answer": "A"}, CHOICE),
    "Python in a cell": ({"question": CHOICE.question, "choices": "['6', 'none']", "answer": "A"}, CHOICE),
    "padded": ({"question": CHOICE.question, "choices": ["6", "none", "", None], "answer": "A"}, CHOICE),
    "the right choice marked": ({"question": CHOICE.question, "choices": ["6", "none"], "label": [1, 0]}, CHOICE),
    "labels in another order": (
        {"question": CHOICE.question, "options": [{"key": "B", "value": "6"}, {"key": "A", "value": "none"}],
         "answer": "B"},
        CHOICE,
    ),
    "flattened choices": ({"question": CHOICE.question, "options.A": "6", "options.B": "none", "answer": "A"}, CHOICE),
    "numbered by a slash": ({"question": CHOICE.question, "choices/0": "6", "choices/1": "none", "answer": 0}, CHOICE),
    "marks in brackets": (
        {"question": CHOICE.question, "Option (A)": "6", "Option (B)": "none", "answer": "A"}, CHOICE,
    ),
    "dream": ({"question": CHOICE.question, "choice": ["6", "none"], "answer": "6"}, CHOICE),
    "choice is the answer": (
        {"question": CHOICE.question, "A": "6", "B": "none", "choice": "B", "answer": "A"}, CHOICE,
    ),
    "labels in small letters": (
        {"question": CHOICE.question, "options": {"b": "6", "a": "none"}, "answer": "B"}, CHOICE,
    ),
    "columns of bare numbers": ({"question": CHOICE.question, "1": "6", "2": "none", "answer": "1"}, CHOICE),
    "twelve columns": (
        {"question": CHOICE.question, **{f"option{i}": str(i) for i in range(1, 13)}, "answer": "option6"},
        replace(CHOICE, choices=tuple(map(str, range(1, 13))), answer=5),
    ),
    "a truth value": (
        {"question": CHOICE.question, "choices": ["yes", "no"], "answer": True}, replace(CHOICE, choices=("yes", "no")),
    ),
    "columns from 0": ({"question": CHOICE.question, "choice_0": "6", "choice_1": "none", "label": 0}, CHOICE),
    "columns by letter": ({"question": CHOICE.question, "A": "6", "B": "none", "answer": "A"}, CHOICE),
    "columns by number": ({"question": CHOICE.question, "option1": "6", "option2": "none", "answer": "1"}, CHOICE),
    "alternatives": ({"question": CHOICE.question, "alternatives": ["6", "none"], "answer": "A"}, CHOICE),
    "piqa": ({"goal": CHOICE.question, "sol1": "6", "sol2": "none", "label": 0}, CHOICE),
    "hellaswag": ({"ctx_a": "What", "ctx": CHOICE.question, "endings": ["6", "none"], "label": "0"}, CHOICE),
    "medmcqa": ({"question": CHOICE.question, "opa": "6", "opb": "none", "cop": 0, "exp": "Twice."}, CHOICE),
    "copa": (
        {"premise": "He has 3.", "question": CHOICE.question, "choice1": "6", "choice2": "none", "label": 0},
        replace(CHOICE, context="He has 3."),
    ),
    "belebele": (
        {"flores_passage": "He has 3.", "question": CHOICE.question, "mc_answer1": "6", "mc_answer2": "none",
         "correct_answer_num": "1"},
        replace(CHOICE, context="He has 3."),
    ),
    "a list of one answer": ({"query": CHOICE.question, "choices": ["6", "none"], "gold": [0]}, CHOICE),
    "race": (
        {"article": "He has 3.", "question": CHOICE.question, "options": ["6", "none"], "answer": "A"},
        replace(CHOICE, context="He has 3."),
    ),
    "gsm8k": (
        {"question": "Double 3?", "answer": "3+3=<<3+3=6>>6\n#### 6"},
        Solution("", "", "", "Double 3?", "3+3=<<3+3=6>>6\n#### 6", "6"),
    ),
    "final": (
        {"question": "Double 3?", "answer": "It is 6.", "final": 6},
        Solution("", "", "", "Double 3?", "It is 6.", "6"),
    ),
    "prompt and response": ({"prompt": "Double 3.", "response": "6"}, REPLY),
    "input and output": ({"input": "Double 3.", "output": "6"}, REPLY),
    "history": (
        {"instruction": "Once more.", "output": "12", "system": "Be short.", "history": [["Double 3.", "6"]]},
        TURNS,
    ),
    "prompt and completion": ({"prompt": "Double 3.", "completion": "6"}, REPLY),
    "question and answer": ({"question": "Double 3.", "answer": "6"}, REPLY),
    "user and assistant": ({"user": "Double 3.", "assistant": "6"}, REPLY),
    "question and number": ({"question": "Double 3.", "answer": 6}, REPLY),
    "input_text and output_text": ({"input_text": "Double 3.", "output_text": "6"}, REPLY),
    "alpaca": ({"instruction": "Double it.", "input": "3", "output": "6"}, Reply("", "", "3", "Double it.", "6")),
    "alpaca in capitals": (
        {"Instruction": "Double it.", "Input": "3", "Output": "6"}, Reply("", "", "3", "Double it.", "6"),
    ),
    "question, input and output": (
        {"question": "Double it.", "input": "3", "output": "6"}, Reply("", "", "3", "Double it.", "6"),
    ),
    "inputs and targets": ({"inputs": "Double 3.", "targets": "6"}, REPLY),
    "alpaca without input": ({"instruction": "Double 3.", "input": "", "output": "6"}, REPLY),
    "openorca": (
        {"system_prompt": "Be short.", "question": "Double 3.", "response": "6"},
        Reply("", "", "", "Double 3.", "6", "Be short."),
    ),
    "messages": ({"messages": openai()}, TURNS),
    "messages with other names": ({"messages": openai(system="developer")}, TURNS),
    "messages of parts": (
        {"messages": [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in MESSAGES]}, TURNS,
    ),
    "messages as JSON": ({"messages": json.dumps(openai())}, TURNS),
    "messages by column": (
        {"messages": {"role": [role for role, _ in MESSAGES], "content": [text for _, text in MESSAGES]}}, TURNS,
    ),
    "messages as Python": ({"messages": str(openai())}, TURNS),
    "messages of typed parts": (
        {"messages": [{"role": role, "content": [{"type": "input_text", "text": text}]} for role, text in MESSAGES]},
        TURNS,
    ),
    "no image": ({"question": CHOICE.question, "choices": ["6", "none"], "answer": "A", "image": None}, CHOICE),
    "conversations": ({"conversations": sharegpt()}, TURNS),
    "system beside conversations": ({"system": "Be short.", "conversations": sharegpt()[1:]}, TURNS),
    "prompt and completion of messages": ({"prompt": openai()[:4], "completion": openai()[4:]}, TURNS),
    "prompt and completion as JSON": (
        {"prompt": json.dumps(openai()[:4]), "completion": json.dumps(openai()[4:])}, TURNS,
    ),
    "plain text": ({"text": "Six is twice three."}, Reply("", "", "", "", "Six is twice three.")),
}  # fmt: skip


def records(form: str, count: int = 12) -> list[dict]:
    """Rows in a form, with another number in each question."""
    text = json.dumps(FORMS[form][0])
    numbered = [re.sub("(Double|What|Six)", rf"({i}) \1", text) for i in range(count)]
    return [json.loads(record) for record in numbered]


def load(root: Path, **keys) -> Dataset:
    return load_dataset(DataConfig(name="local", kind="own", **keys), SourceConfig(name="local", root=str(root)))


def write_lines(path: Path, rows: list[dict]) -> None:
    path.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_array(path: Path, rows: list[dict]) -> None:
    path.with_suffix(".json").write_text(json.dumps(rows, indent=2))


def write_parquet(path: Path, rows: list[dict]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path.with_suffix(".parquet"))


def plain(row: object) -> str:
    """A row without task, id and the number that keeps it apart."""
    text = repr(row)
    for i in range(12):
        text = text.replace(f"({i}) ", "")
    return text[text.index("context=") :]


@pytest.mark.parametrize("write", [write_lines, write_array, write_parquet])
@pytest.mark.parametrize("form", FORMS)
def test_form_is_read_without_a_map(form, write: Callable, tmp_path):
    write(tmp_path / "law", records(form))
    dataset = load(tmp_path)
    rows = [*dataset.train, *dataset.tasks["law"].validation, *dataset.tasks["law"].test]
    assert {plain(row) for row in rows} == {plain(FORMS[form][1])}
    assert len({row.texts if row.question else row.response for row in rows}) == 12


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("messages", "law: law.jsonl: 12 conversations (messages), 2.0 turns on average: train"),
        ("alpaca", "law: law.jsonl: 12 replies (instruction, output, input): train"),
        (
            "letter",
            "law: law.jsonl: 12 multiple-choice questions (question, choices, answer), answers as letters: train",
        ),
        ("gsm8k", "law: law.jsonl: 12 worked solutions (question, answer): train"),
        ("plain text", "law: law.jsonl: 12 texts (text): train"),
    ],
)
def test_what_a_file_was_taken_for_is_said_in_one_line(form, line, tmp_path):
    write_lines(tmp_path / "law", records(form))
    assert load(tmp_path).summary()[0] == line


@pytest.mark.parametrize(
    "write",
    [
        lambda root, data: data.save_to_disk(str(root / "law")),
        lambda root, data: datasets.DatasetDict(train=data, test=data).save_to_disk(str(root / "law")),
        lambda root, data: data.to_json(str(root / "law.jsonl.gz"), compression="gzip"),
        lambda root, data: (root / "law.json").write_text(json.dumps({"version": 1, "data": data.to_list()})),
        lambda root, data: (root / "law.json").write_text("\n\n".join(json.dumps(row, indent=1) for row in data)),
        lambda root, data: (root / "law.jsonl").write_text(json.dumps(data.to_list())),
        lambda root, data: (root / "law.jsonl").write_text("\n".join(json.dumps(row, indent=1) for row in data)),
        lambda root, data: (root / "law.jsonl").write_text(json.dumps({"data": data.to_list()})),
        lambda root, data: (root / "law.jsonl").write_text("\n".join(map(json.dumps, data)), encoding="utf-16"),
        lambda root, data: (root / "law.JSON.GZ").write_bytes(gzip.compress(json.dumps(data.to_list()).encode())),
        lambda root, data: pyarrow.output_stream(str(root / "law.jsonl.zst"), compression="zstd").write(
            "\n".join(map(json.dumps, data)).encode()
        ),
        lambda root, data: [data.shard(3, i).to_parquet(f"{root}/train-{i:05}-of-00003.parquet") for i in range(3)],
    ],
    ids=["save_to_disk", "save_to_disk of splits", "gz", "data in an object", "objects", "array in jsonl",
         "objects in jsonl", "data in jsonl", "utf-16", "capitals and gz", "zst", "shards"],
)  # fmt: skip
def test_file_format_gives_the_same_rows(write, tmp_path):
    write(tmp_path, datasets.Dataset.from_list(records("letter")))
    (data,) = load(tmp_path).tasks.values()
    rows = [*data.train, *data.validation, *data.test]
    assert {plain(row) for row in rows} == {plain(CHOICE)}
    assert len({row.question for row in rows}) == 12


USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"chosen": "a", "rejected": "b", "prompt": "c"}, "preference pairs"),
        ({"prompt": "a", "completion": "b", "label": False}, "that a label calls good or bad"),
        ({"question": "Q?", "answer": "A"}, r"letters, and no choices: .*data.columns=\{response: answer\}"),
        ({"instruction": "Q?", "context": "c", "input": "i", "output": "a"}, "has both 'context' and 'input'"),
        ({"question": "Q?", "options": [{"value": "A", "label": "x"}, {"value": "B", "label": "y"}], "answer": "A"},
         "choice 0 must be text, is an object"),
        ({"text": "Q?", "image": {"bytes": None, "path": "x.png"}}, r"has image; .*data.columns=\{images: null\}"),
        ({"messages": [{"role": "user", "parts": [{"text": "a"}]}]}, "has no text .*it has role, parts"),
        ({"messages": [{"role": "user", "content": ["a", "b"]}]}, "is a list of texts; join them"),
        ({"Größe": "a", "Frage": "b"}, 'A name such as "Größe" needs its quotation marks'),
        (
            {"question": "Q?", "distractor1": "a", "distractor2": "b", "correct_answer": "c"},
            r"wrong choices apart \(distractor1, distractor2\).*data.columns=\{response",
        ),
        ({"question": "Q?", "correct_answers": ["a"], "incorrect_answers": ["b"], "best_answer": "a"}, "wrong choices"),
        ({"question": "Q?", "label": 3}, r"answers \('label'\) that are no text, and no choices"),
        ({"text": "A film.", "label": "good"}, "no known form"),
        ({"messages": openai(), "tools": [{"name": "x"}]}, "has tools"),
        ({"instruction": "a", "output": "b", "history": ["a", "b"]}, "'history' must be a list of pairs"),
        ({"sentence1": "a", "sentence2": "b"}, "no known form"),
        ({"qestion": "Q?", "choices": ["a", "b"], "answer": 0}, "has no column 'question'.* did you mean 'qestion'"),
        ({"question": "Q?", "choices": ["a", "b"]}, "has no column 'answer'"),
        ({"messages": [{"role": "user", "content": "Hi."}]}, "ends with what the user says"),
        ({"messages": [{"role": "assistant", "content": "Hi."}]}, "must begin with what the user says"),
        ({"messages": [*openai(), {"role": "tool", "content": "x"}]}, "a message is from 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "more than text"),
        ({"messages": [USER] * 2}, "two messages of one role"),
        ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [1]}]}, "calls a tool"),
        ({"messages": [USER, {"role": "assistant", "content": "b", "weight": 0}]}, "a weight other than 1"),
        ({"messages": [USER, {"role": "assistant", "content": "b", "train": False}]}, "a train other than 1"),
        ({"messages": [USER, {"role": "assistant", "content": "b", "loss": False}]}, "a loss other than 1"),
        ({"messages": [{"content": "a"}]}, "does not say who it is from"),
        ({"messages": []}, "must begin with what the user says"),
        ({"messages": "Hi."}, "must be a list of messages, is text"),
        ({"messages": openai(), "system": "Be long."}, "a system prompt of its own"),
        ({"messages": openai()[1:], "system": [{"image": "x"}]}, "more than text"),
        ({"messages": openai()[1:], "system": {"a": 1}}, "the system prompt must be text, is an object"),
        ({"role": "user", "content": "Hi."}, "holds one message a row"),
        ({"from": "human", "value": "Hi."}, "holds one message a row"),
        ({"message_id": "1", "text": "Hi.", "role": "prompter"}, "holds one message a row"),
        (
            {"messages": [USER, {"role": "assistant", "content": "b", "reasoning_content": "c"}]},
            "has 'reasoning_content' apart",
        ),
        ({"messages": [{"human": "a", "assistant": "b"}]}, "who it is from.*it has human, assistant"),
        ({"question": "Q?", "passage": "p", "answer": True}, r"answers \('answer'\) that are no text, and no choices"),
        ({"question": "Q?", "answers": {"text": ["a"]}}, r"data.columns=\{response: ...\}"),
    ],
)  # fmt: skip
def test_form_that_is_not_read_is_refused_in_one_line(record, words, tmp_path):
    write_lines(tmp_path / "law", [record] * 40)
    with pytest.raises(UserError, match=words) as caught:
        load(tmp_path)
    assert len(caught.value.messages) <= 2
    assert caught.value.messages[0].count("\n") == 0


ASKED, ANSWERED = MESSAGES[1:2], MESSAGES[2:3]


def spoken(*messages: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in messages]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Double 3.", "chosen": "6", "rejected": "5"},
        {"Question": "Double 3.", "Chosen": "6", "Rejected": "5"},
        {"prompt": "Double 3.", "response": "6", "rejected": "5"},
        {"prompt": "Double 3.", "chosen": spoken(*ASKED, *ANSWERED), "rejected": spoken(*ASKED)},
        {"prompt": spoken(*ASKED), "chosen": spoken(*ANSWERED), "rejected": spoken(*ANSWERED)},
        {"messages": spoken(*ASKED, *ANSWERED), "rejected_response": "5"},
        {"prompt": "Double 3.", "chosen": json.dumps(spoken(*ASKED, *ANSWERED)), "rejected": "5"},
        {"prompt": "Double 3.", "response": "6", "label": 0},
        {"prompt": "Double 3.", "completion": "6", "label": True},
        {"prompt": spoken(*ASKED), "completion": spoken(*ANSWERED), "label": True},
        {"messages": spoken(*ASKED, *ANSWERED), "label": False},
        {"question": "Double 3.", "response": "6", "Partition": "test"},
        {"question": "Double 3.", "response": "6", "image": "a.png"},
        {"question": "Double 3.", "response": "6", "tools": ["f"]},
    ],
    ids=lambda record: " ".join(record),
)
def test_columns_that_a_refusal_names_read_the_replies(record, tmp_path):
    """The advice is typed on the command line, where a map of columns is checked as well."""
    rows = [json.loads(json.dumps(record).replace("Double", f"({i}) Double")) for i in range(12)]
    write_lines(tmp_path / "law", rows)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    advice = re.findall(r"data\.columns=(\{[^.]*?\})", str(caught.value))
    config = load_config([f"source.root={tmp_path}", f"data.columns={advice[-1]}"])
    data = load_dataset(config.data, config.source)
    assert {row.question for row in data.train if isinstance(row, Reply)} <= {f"({i}) Double 3." for i in range(12)}
    assert len(data.train) == 10


def test_columns_that_are_not_read_are_named(tmp_path):
    write_lines(tmp_path / "law", [{"id": i, "text": f"Long {i}.", "summary": "x", "by": 1} for i in range(9)])
    assert load(tmp_path).summary()[0] == "law: law.jsonl: 9 texts (text): train; columns not read: summary, by"


@pytest.mark.parametrize("write", [write_lines, write_array])
@pytest.mark.parametrize(
    ("late", "form", "read"),
    [
        ({"system": "Be short."}, "prompt and response", {"system": "Be short."}),
        ({"input": "Of 3."}, "alpaca without input", {"context": "Of 3."}),
        ({"history": [["Hi.", "Hello."]]}, "prompt and response", {"history": (("Hi.", "Hello."),)}),
        ({"passage": "He has 3."}, "letter", {"context": "He has 3."}),
        ({"id": "q7", "comment": "checked"}, "letter", {"id": "q7"}),
    ],
)
def test_column_that_only_a_late_row_has_is_read(late, form, read, write, tmp_path, monkeypatch):
    monkeypatch.setattr("mosld.data.reading.records.HEAD", 5)
    rows = [{name: value for name, value in row.items() if name not in late} for row in records(form)]
    write(tmp_path / "law", [*rows[:8], {**rows[8], "note": "x"}, {**rows[9], **late}, *rows[10:]])
    data = load(tmp_path).tasks["law"]
    found = [row for row in (*data.train, *data.validation, *data.test) if "(9) " in row.question]
    assert [{name: getattr(row, name) for name in read} for row in found] == [read]


def test_column_by_which_a_late_row_is_of_another_form_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mosld.data.reading.records.HEAD", 5)
    rows = records("question and answer")
    write_lines(tmp_path / "law", [*rows[:9], {**rows[9], "options": ["6", "7"]}, *rows[10:]])
    with pytest.raises(UserError, match=r"law.jsonl:10: has options, which no row .*multiple-choice.*replies"):
        load(tmp_path)
    assert load(tmp_path, columns={"choices": None}).tasks["law"].task.kind == "reply"


def test_every_type_of_id_names_its_row(tmp_path):
    ids = [datetime.date(2026, 1, 2), decimal.Decimal("1.50"), True, 7]
    for number, name in enumerate([*ids, [3, "b"]]):
        rows = [{**row, "id": name if i == 0 else None} for i, row in enumerate(records("letter"))]
        (write_lines if isinstance(name, list) else write_parquet)(tmp_path / f"law{number}", rows)
    values = pyarrow.array([uuid.UUID(int=7).bytes, *[None] * 11], pyarrow.uuid())
    table = pyarrow.Table.from_pylist(records("letter")).append_column("id", values)
    parquet.write_table(table, tmp_path / "law5.parquet")
    for data, name in zip(load(tmp_path).tasks.values(), [*ids, [3, "b"], uuid.UUID(int=7)], strict=True):
        found = {row.id for row in (*data.train, *data.validation, *data.test)}
        assert {text for text in found if not text.startswith("train/")} == {str(name)}
        assert len(found) == 12


def test_only_some_answers_with_a_final_number_are_refused_with_both_fixes(tmp_path):
    rows = records("gsm8k")
    rows[3]["answer"] = rows[7]["answer"] = "It is 6."
    write_lines(tmp_path / "law", rows)
    with pytest.raises(UserError, match=r"in 10 of the first 12 rows.*data.columns=\{response: answer\}"):
        load(tmp_path)
    assert load(tmp_path, columns={"response": "answer"}).tasks["law"].task.kind == "reply"


@pytest.mark.parametrize("said", ["test", "TEST", "val"])
def test_rows_that_name_another_split_are_not_trained_on(said, tmp_path):
    rows = [{**row, "split": "train" if i < 10 else said} for i, row in enumerate(records("letter"))]
    write_lines(tmp_path / "law", rows)
    with pytest.raises(UserError, match=r"'split' says (test|validation).*read as train"):
        load(tmp_path)
    assert load(tmp_path, columns={"split": None}).tasks["law"].train


def test_nested_column_is_named_with_dots(tmp_path):
    rows = [{"q": {"stem": f"Q{i}?", "from": {"red": "x", "blue": "y"}}, "key": "blue"} for i in range(12)]
    write_lines(tmp_path / "law", rows)
    columns = {"question": "q.stem", "choices": "q.from", "answer": "key"}
    assert {(row.choices, row.answer) for row in load(tmp_path, columns=columns).train if isinstance(row, Row)} == {
        (("x", "y"), 1)
    }
    with pytest.raises(UserError, match=r"has no column 'q\.stm'; did you mean 'q\.stem'"):
        load(tmp_path, columns={**columns, "question": "q.stm"})


def doc_examples() -> list[tuple[str, str, str]]:
    """Of each form in the page on one's own data: the format, the file, and the line that is said to be printed."""
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "own_data.md").read_text()
    return re.findall(r"```(jsonl|csv)\n(.*?)```\n\n`file[.](.*?)`\n", page, flags=re.DOTALL)


@pytest.mark.parametrize(("suffix", "content", "line"), doc_examples())
def test_example_of_the_docs_is_read_as_it_says(suffix, content, line, tmp_path):
    (tmp_path / f"file.{suffix}").write_text(content)
    assert load(tmp_path).summary()[0] == f"file: file.{line}"


def test_docs_have_an_example_of_every_form():
    kinds = {line.split(" (")[0].split(": ")[1].split(" ", 1)[1] for _, _, line in doc_examples()}
    assert kinds == {"multiple-choice questions", "worked solutions", "replies", "conversations", "texts"}
