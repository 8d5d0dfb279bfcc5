"""data=local: the user's own files in every form, found, mapped, divided; what is wrong with them, all at once."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.local_files import own_files
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import Dataset, load_dataset
from mosld.data.rows import Reply, Row, Solution

MAP = {"question": "q", "choices": "options", "answer": "label"}
COLOURS = ["red", "blue", "green", "pink"]


def rows(count: int, **changes: Any) -> list[dict[str, Any]]:
    """Questions in a user's own columns; the answer is an index."""
    return [{"q": f"What is {i}?", "options": COLOURS, "label": i % 4, **changes} for i in range(count)]


def write(path: Path, records: list[dict[str, Any]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, records[0], delimiter=delimiter)
            writer.writeheader()
            for record in records:
                texts = {key: json.dumps(value) if isinstance(value, list) else value for key, value in record.items()}
                writer.writerow(texts)
    return path


def load(root: Path, columns: dict[str, Any] | None = None, training: bool = True, **keys: Any) -> Dataset:
    source = {key: keys.pop(key) for key in ("on_bad_row",) if key in keys}
    data = DataConfig(name="local", kind="own", columns=MAP if columns is None else columns, **keys)
    return load_dataset(data, SourceConfig(name="local", root=str(root), **source), training)


def refusal(root: Path, *arguments: Any, **keys: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(root, *arguments, **keys)
    return caught.value.messages


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_every_form_of_file_gives_the_same_rows(ending, tmp_path):
    write(tmp_path / f"law.{ending}", rows(20), delimiter="\t" if ending == "tsv" else ",")
    found = load(tmp_path).tasks["law"]
    everything = sorted([*found.train, *found.validation, *found.test], key=lambda row: row.question)
    wanted = sorted((f"What is {i}?", tuple(COLOURS), i % 4) for i in range(20))
    assert [(row.question, row.choices, row.answer) for row in everything] == wanted


@pytest.mark.parametrize(
    ("answers", "keys"),
    [
        (lambda i: i % 4, {}),
        (lambda i: str(i % 4 + 1), {}),
        (lambda i: "ABCD"[i % 4], {}),
        (lambda i: COLOURS[i % 4], {}),
        (lambda i: i % 3 + 1, {"answer_as": "index"}),
    ],
)
def test_answers_are_read_as_index_digit_letter_or_text(answers, keys, tmp_path):
    made = [{**row, "label": answers(i)} for i, row in enumerate(rows(20))]
    write(tmp_path / "law.jsonl", made)
    found = load(tmp_path, **keys)
    by_question = {
        row.question: row.answer for row in [*found.train, *found.tasks["law"].validation, *found.tasks["law"].test]
    }
    shift = 1 if keys else 0
    assert by_question == {f"What is {i}?": (i % 3 + 1 if shift else i % 4) for i in range(20)}


def test_answers_that_can_be_read_in_two_ways_are_asked_for(tmp_path):
    write(tmp_path / "law.jsonl", [{**row, "label": 1 + i % 3} for i, row in enumerate(rows(20))])
    (message,) = refusal(tmp_path)
    assert message.startswith("law: the answers ('label') can be read as index or number")
    assert "data.answer_as" in message


def test_a_column_for_each_choice_and_rows_with_fewer_choices(tmp_path):
    made = [{"q": f"Q{i}?", "a": "x", "b": "y", "c": "z" if i % 2 else "", "label": "AB"[i % 2]} for i in range(20)]
    write(tmp_path / "law.csv", made)
    found = load(tmp_path, {**MAP, "choices": ["a", "b", "c"]})
    assert {len(row.choices) for row in found.train} == {2, 3}


def test_choices_with_labels_as_the_hub_has_them(tmp_path):
    nested = {"text": COLOURS, "label": ["1", "2", "3", "4"]}
    write(tmp_path / "law.jsonl", [{"q": f"Q{i}?", "options": nested, "label": "2"} for i in range(20)])
    assert {row.answer for row in load(tmp_path).train} == {1}
    write(tmp_path / "law.jsonl", [{"q": f"Q{i}?", "options": nested, "label": "5"} for i in range(20)])
    assert refusal(tmp_path)[0].endswith("law.jsonl:1: 'label' must be one of the labels 1, 2, 3, 4, is '5'")


def test_replies_and_worked_solutions_are_told_by_the_map(tmp_path):
    write(tmp_path / "chat.jsonl", [{"q": f"Q{i}?", "a": f"A {i}.", "s": "Be brief."} for i in range(20)])
    write(tmp_path / "sums.jsonl", [{"q": f"Q{i}?", "a": f"So {i}.", "n": i} for i in range(20)])
    found = load(
        tmp_path,
        {
            "chat": {"question": "q", "response": "a", "system": "s"},
            "sums": {"question": "q", "answer": "a", "final": "n"},
        },
    )
    first = next(row for row in found.train if row.task == "chat")
    assert (type(first), first.system) == (Reply, "Be brief.")
    assert {type(row) for row in found.tasks["sums"].test} == {Solution}
    assert {name: data.task.kind for name, data in found.tasks.items()} == {"chat": "reply", "sums": "solution"}


def test_replies_that_are_not_scored_need_no_test(tmp_path):
    write(tmp_path / "chat.jsonl", [{"q": f"Q{i}?", "a": "A."} for i in range(20)])
    found = load(tmp_path, {"question": "q", "response": "a"}, score_replies=False)
    assert found.counts() == {"chat": {"train": 20, "validation": 0, "test": 0}}


def test_columns_of_the_projects_own_names_need_no_map(tmp_path):
    write(tmp_path / "law.jsonl", [{"question": f"Q{i}?", "choices": COLOURS, "answer": i % 4} for i in range(20)])
    assert isinstance(load(tmp_path, {}).train[0], Row)


def test_files_of_splits_are_used_as_they_are(tmp_path):
    for split, count in (("train", 30), ("validation", 6), ("test", 5)):
        write(tmp_path / "law" / f"{split}.csv", rows(count))
    assert load(tmp_path).counts() == {"law": {"train": 30, "validation": 6, "test": 5}}


def test_what_has_no_file_is_held_out_of_train_the_same_way_every_time(tmp_path):
    write(tmp_path / "law.csv", rows(50))
    first, again = load(tmp_path, holdout=0.2), load(tmp_path, holdout=0.2)
    assert first.counts() == {"law": {"train": 32, "validation": 8, "test": 10}}
    assert first.fingerprint == again.fingerprint
    ids = [row.id for row in [*first.train, *first.tasks["law"].validation, *first.tasks["law"].test]]
    assert sorted(ids) == sorted(f"train/{line}" for line in range(2, 52))


def test_scoring_holds_out_the_test_that_training_held_out(tmp_path):
    write(tmp_path / "law.csv", rows(50))
    assert load(tmp_path, training=False).tasks["law"].test == load(tmp_path).tasks["law"].test


@pytest.mark.parametrize(
    ("files", "tasks"),
    [
        (["law.csv", "art.jsonl"], ["art", "law"]),
        (["law/train.csv", "law/test.csv", "art.jsonl"], ["law", "art"]),
        (["train.csv", "test.csv"], ["root"]),
        (["law/train.csv", "notes/read.me", "law.txt"], ["law"]),
    ],
)
def test_tasks_are_found_below_the_root(files, tasks, tmp_path):
    for name in files:
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    assert list(own_files(tmp_path / "root")) == tasks


def test_one_file_is_one_task(tmp_path):
    assert list(own_files(write(tmp_path / "law.parquet", rows(3)))) == ["law"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["law/train.csv", "law/dev.csv"], "dev.csv: is no split"),
        (["law/train.csv", "law/train.jsonl"], "the split train has another file: train.csv"),
        (["law/train.csv", "law.csv"], "the task law has another file"),
        (["law.json"], "did you mean '.jsonl'"),
        ([], "holds no data"),
        (["a b.csv"], "'a b'"),
    ],
)
def test_a_place_that_cannot_be_told_apart_is_refused(files, words, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=words):
        own_files(tmp_path)


def test_the_config_names_the_tasks_that_it_finds(tmp_path):
    write(tmp_path / "law.csv", rows(9))
    write(tmp_path / "art.csv", rows(9))
    config = load_config(["data=local", "source=local", f"source.root={tmp_path}"])
    assert config.data.tasks == ["art", "law"]


def test_a_missing_column_is_named_once_a_file_with_the_nearest_one(tmp_path):
    write(tmp_path / "law.csv", [{"q": "Q?", "option": "[]", "label": 0}] * 3)
    assert refusal(tmp_path) == [
        f"{tmp_path}/law.csv: has no column 'options'; did you mean 'option'? Valid: label, option, q."
    ]


def test_a_column_that_is_not_mapped_says_how_to_map_it(tmp_path):
    write(tmp_path / "law.csv", rows(3))
    assert "name yours with data.columns={question: ...}" in refusal(tmp_path, {})[0]


def test_a_task_that_is_not_there_is_refused_with_the_nearest_one(tmp_path):
    write(tmp_path / "law.csv", rows(3))
    assert "did you mean 'law'" in refusal(tmp_path, tasks=["laws"])[0]


def test_a_map_of_a_task_that_is_not_there_is_refused_and_one_of_a_task_that_is_not_taken_is_not(tmp_path):
    write(tmp_path / "law.csv", rows(20))
    write(tmp_path / "art.csv", rows(20))
    assert list(load(tmp_path, {"law": MAP, "art": MAP}, tasks=["law"]).tasks) == ["law"]
    assert "did you mean 'law'" in refusal(tmp_path, {"laws": MAP, "art": MAP})[0]


BAD = {
    "q,options,label\n\"Q?\",\"[\"\"a\"\", \"\"b\"\"]\"\n": ":2: has 2 fields, the header has 3",
    "q,options,label\n\n,\"[\"\"a\"\", \"\"b\"\"]\",A\n": ":3: 'q' is empty",
    "q,options,label\nQ?,a b,A\n": ":2: 'options' is no list",
    "q,options,label\nQ?,\"[\"\"a\"\"]\",A\n": ":2: 'options' has 1 entries",
    "q,options,label\nQ?,\"[\"\"a\"\", \"\"\"\"]\",A\n": ":2: choice 1 is empty",
    "q,options,label\nQ?,\"[\"\"a\"\", 3, [1]]\",A\n": ":2: choice 2 must be text",
    "q,options,label\nQ?,\"[\"\"a\"\", \"\"b\"\"]\",\n": ":2: 'label' is hidden",
    "q,options,label\nQ?,\"[\"\"a\"\", \"\"b\"\"]\",C\n": ":2: 'label' must be a letter, A..B, is 'C'",
    "q,options,label\nQ?,\"[\"\"a\"\", \"\"b\"\"],A\n": ":2: is no row of a csv file",
    "q,options,label\nQ\udcff,\"[\"\"a\"\", \"\"b\"\"]\",A\n": ":2: is not UTF-8",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD, ids=list(BAD.values()))
def test_a_bad_row_of_a_csv_file_is_named_with_its_line_and_the_users_column(text, tmp_path):
    (tmp_path / "law").mkdir()
    for split in ("validation", "test"):
        write(tmp_path / "law" / f"{split}.csv", [{**row, "label": "AB"[i % 2]} for i, row in enumerate(rows(9))])
    (tmp_path / "law" / "train.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    first = refusal(tmp_path)[0]
    assert first.startswith(f"{tmp_path}/law/train.csv{BAD[text]}")


def test_a_row_that_spans_lines_is_named_by_its_first(tmp_path):
    (tmp_path / "law.csv").write_text('q,options,label\n"a\nb","[""x"",""y""]",A\n"c\nd","[""x"",""y""]",Z\n')
    assert refusal(tmp_path)[0].startswith(f"{tmp_path}/law.csv:4: ")


def test_all_bad_rows_of_all_tasks_come_at_once_in_the_order_of_their_lines(tmp_path):
    write(tmp_path / "art.parquet", [*rows(3), {**rows(1)[0], "label": None}, {**rows(1)[0], "q": ""}])
    (tmp_path / "law.jsonl").write_text('{bad\n{"q": "Q?", "options": ["a", "a "], "label": 7}\n3\n')
    found = refusal(tmp_path)
    assert [message.removeprefix(f"{tmp_path}/").split(" ")[0] for message in found[:-1]] == [
        "art.parquet:4:", "art.parquet:5:", "law.jsonl:1:", "law.jsonl:2:", "law.jsonl:3:",
    ]  # fmt: skip
    assert found[-1].startswith("5 bad rows")


def test_bad_rows_can_be_left_out(tmp_path):
    write(tmp_path / "law.jsonl", [*rows(20), {**rows(1)[0], "q": ""}])
    assert load(tmp_path, on_bad_row="skip").notes[0].startswith("1 bad rows left out")


def test_an_id_that_comes_twice_is_refused(tmp_path):
    write(tmp_path / "law.jsonl", [{**row, "n": 7} for row in rows(2)])
    assert refusal(tmp_path, {**MAP, "id": "n"})[0].endswith("law.jsonl:2: id '7' stands already in line 1")


def test_bytes_in_a_parquet_file_that_are_no_text_are_named_with_their_row(tmp_path):
    texts = pyarrow.array([b"Q1?", b"Q\xff?", b"Q3?"]).cast(pyarrow.string(), safe=False)
    columns = {"q": texts, "options": [COLOURS] * 3, "label": [0, 1, 3]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "law.parquet")
    assert refusal(tmp_path)[0] == f"{tmp_path}/law.parquet:2: is not UTF-8"


def test_a_damaged_parquet_file_is_refused(tmp_path):
    (tmp_path / "law.parquet").write_bytes(b"PAR1 no")
    assert "is no whole parquet file" in refusal(tmp_path)[0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data=local"], "add source=local"),
        (["data.columns={question: q}"], "take data=local"),
        (["data.answer_as=letter"], "take data=local"),
        (["data=local", "source=local", "source.root=x", "data.columns={qestion: q}"], "did you mean 'question'"),
        (["data=local", "source=local", "source.root=x", "data.columns={question: [a, b]}"], "the choices alone"),
        (["data=local", "source=local", "source.root=x", "data.columns={response: a, choices: b}"], "a response, or"),
    ],
)
def test_keys_that_cannot_go_together_are_refused(overrides, words):
    with pytest.raises(UserError, match=words):
        load_config(overrides)
