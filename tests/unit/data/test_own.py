"""data=local: the user's files in every format, found, mapped and split; all errors at once."""

import csv
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import Dataset, load_dataset
from mosld.data.reading import local, row_cache
from mosld.data.rows import Reply, Row, Solution
from tests.helpers import bad_rows, refusals

MAP = {"question": "q", "choices": "options", "answer": "label"}
COLOURS = ["red", "blue", "green", "pink"]


def rows(count: int, **changes: Any) -> list[dict[str, Any]]:
    """Questions in a user's columns; the answer is an index."""
    return [{"q": f"What is {i}?", "options": COLOURS, "label": i % 4, **changes} for i in range(count)]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(
                file, records[0] if records else ["question"], delimiter="\t" if path.suffix == ".tsv" else ","
            )
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
    return [message.removeprefix(f"{root}/") for message in refusals.refusal(load, root, *arguments, **keys)]


def answers(dataset: Dataset) -> dict[str, int]:
    """The answers of all rows by question."""
    data = dataset.tasks["law"]
    return {row.question: row.answer for row in [*data.train, *data.validation, *data.test] if isinstance(row, Row)}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_every_file_format_gives_the_same_rows(ending, tmp_path):
    write(tmp_path / f"law.{ending}", rows(20))
    dataset = load(tmp_path)
    assert answers(dataset) == {f"What is {i}?": i % 4 for i in range(20)}
    assert {row.choices for row in dataset.train} == {tuple(COLOURS)}


def test_the_map_tells_replies_from_solutions(tmp_path):
    write(tmp_path / "chat.jsonl", [{"q": f"Q{i}?", "a": f"A {i}.", "s": "Be brief."} for i in range(20)])
    write(tmp_path / "sums.jsonl", [{"q": f"Q{i}?", "a": f"So {i}.", "n": i} for i in range(20)])
    maps = {
        "chat": {"question": "q", "response": "a", "system": "s"},
        "sums": {"question": "q", "answer": "a", "final": "n"},
    }
    dataset = load(tmp_path, maps)
    first = next(row for row in dataset.train if row.task == "chat")
    assert (type(first), first.system) == (Reply, "Be brief.")
    assert {type(row) for row in dataset.tasks["sums"].test} == {Solution}
    assert {name: data.task.kind for name, data in dataset.tasks.items()} == {"chat": "reply", "sums": "solution"}


def test_replies_that_are_not_scored_need_no_test(tmp_path):
    write(tmp_path / "chat.jsonl", [{"q": f"Q{i}?", "a": "A."} for i in range(20)])
    dataset = load(tmp_path, {"question": "q", "response": "a"}, score_replies=False)
    assert dataset.counts() == {"chat": {"train": 20, "validation": 0, "test": 0}}


def test_files_of_splits_are_used_as_they_are(tmp_path):
    for split, count in (("train", 30), ("validation", 6), ("test", 5)):
        write(tmp_path / "law" / f"{split}.csv", rows(count))
    assert load(tmp_path).counts() == {"law": {"train": 30, "validation": 6, "test": 5}}


@pytest.mark.parametrize("damaged", [False, True])
def test_many_rows_are_read_once_and_again_where_the_cache_is_damaged(damaged, tmp_path, monkeypatch):
    monkeypatch.setenv("MOSLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(row_cache, "MIN_ROWS", 20)
    write(tmp_path / "rows" / "law.jsonl", rows(20))
    first = load(tmp_path / "rows")
    (cached,) = tmp_path.glob("cache/rows/*/train.arrow")
    if damaged:
        cached.write_bytes(cached.read_bytes()[:-1])
    else:
        monkeypatch.setattr(local, "parse_row", None)
    again = load(tmp_path / "rows")
    assert (again.fingerprint, again.summary()) == (first.fingerprint, first.summary())


def test_config_lists_the_tasks_that_it_finds(tmp_path):
    write(tmp_path / "law.csv", rows(9))
    write(tmp_path / "art.csv", rows(9))
    config = load_config(["data=local", "source=local", f"source.root={tmp_path}"])
    assert config.data.tasks == ["art", "law"]


def test_missing_column_is_named_once_a_file_with_the_nearest_one(tmp_path):
    write(tmp_path / "law.csv", [{"q": "Q?", "option": "[]", "label": 0}] * 3)
    assert refusal(tmp_path) == ["law.csv: has no column 'options'; did you mean 'option'? Valid: label, option, q."]


def test_table_of_which_no_row_can_be_read_is_said_to_be_so(tmp_path):
    (tmp_path / "law.csv").write_text("question,answer\n" + "What?,one,two\n" * 9)
    assert (
        refusal(tmp_path, columns={})[0] == "law.csv:2: has 3 fields, the header has 2; 9 such rows, the first 2, 3, 4"
    )


@pytest.mark.parametrize("value", [decimal.Decimal(6), b"6"])
def test_answer_of_any_type_that_is_text_or_a_number_is_a_reply(value, tmp_path):
    parquet.write_table(
        pyarrow.table({"question": [f"{i}?" for i in range(9)], "answer": [value] * 9}), tmp_path / "a.parquet"
    )
    assert {row.response for row in load(tmp_path, columns={}).train if isinstance(row, Reply)} == {"6"}


def test_table_without_a_header_is_told_to_name_its_columns(tmp_path):
    (tmp_path / "law.csv").write_text("What is one?,6,5,A\nWhat is two?,4,3,B\n")
    assert "The first line of a table must name its columns." in refusal(tmp_path, columns={})[0]


def test_file_of_bad_rows_alone_that_are_skipped_says_why(tmp_path):
    write(tmp_path / "law.jsonl", rows(9, label=7))
    assert "9 bad rows left out (source.on_bad_row=skip), the first: " in refusal(tmp_path, on_bad_row="skip")[-1]


def test_test_without_answers_is_told_to_be_moved(tmp_path):
    write(tmp_path / "train.csv", rows(20))
    write(tmp_path / "test.csv", [{key: row[key] for key in ("q", "options")} for row in rows(5)])
    assert "rows without answers cannot be scored" in refusal(tmp_path)[-1]
    assert "name yours with data.columns={question: ...}" in refusal(tmp_path, {})[0]


def test_unknown_task_is_refused_with_the_nearest_one(tmp_path):
    write(tmp_path / "law.csv", rows(20))
    write(tmp_path / "art.csv", rows(20))
    assert "did you mean 'law'" in refusal(tmp_path, tasks=["laws"])[0]
    assert "did you mean 'law'" in refusal(tmp_path, {"laws": MAP, "art": MAP})[0]
    assert list(load(tmp_path, {"law": MAP, "art": MAP}, tasks=["law"]).tasks) == ["law"]


@pytest.mark.parametrize("form", bad_rows.FORMATS)
def test_every_kind_of_bad_row_is_named_with_file_and_line(form, tmp_path):
    assert bad_rows.read_own_files(tmp_path, form) == []


def test_row_that_spans_lines_is_named_by_its_first_line(tmp_path):
    (tmp_path / "law.csv").write_text('q,options,label\n"a\nb","[""x"",""y""]",A\n\n"c\nd","[""x"",""y""]",Z\n')
    assert refusal(tmp_path)[0].startswith("law.csv:5: ")


def test_bad_rows_of_all_tasks_are_named_at_once_in_the_order_of_their_lines(tmp_path):
    write(tmp_path / "art.parquet", [*rows(3), {**rows(1)[0], "label": None}, {**rows(1)[0], "q": ""}])
    (tmp_path / "law.jsonl").write_text('{bad\n{"q": "Q?", "options": ["a", "a "], "label": 7}\n3\n')
    *errors, last = refusal(tmp_path)
    assert [error.split(" ")[0] for error in errors] == [
        "art.parquet:4:", "art.parquet:5:", "law.jsonl:1:", "law.jsonl:2:", "law.jsonl:3:",
    ]  # fmt: skip
    assert last.startswith("5 bad rows")


def test_ambiguous_answers_are_refused_with_a_row_and_the_key_that_decides(tmp_path):
    write(tmp_path / "law.jsonl", [{**row, "label": 1 + i % 3} for i, row in enumerate(rows(20))])
    (message,) = refusal(tmp_path)
    assert message.startswith(
        "law.jsonl:1: the answers ('label') can be read as index or number, which differ: here '1'"
    )
    assert "data.answer_as=index or data.answer_as=number" in message
    assert answers(load(tmp_path, answer_as="number"))["What is 0?"] == 0


def test_answer_that_is_no_label_is_refused_with_the_labels(tmp_path):
    nested = {"text": COLOURS, "label": ["1", "2", "3", "4"]}
    write(tmp_path / "law.jsonl", [{"q": f"Q{i}?", "options": nested, "label": "25"[i // 19]} for i in range(20)])
    assert refusal(tmp_path)[0] == "law.jsonl:20: 'label' must be one of the labels 1, 2, 3, 4, is '5'"


@pytest.mark.parametrize(
    ("label", "words"),
    [("grey", "'label' is none of the choices, is 'grey'"), ("\u0410", "(CYRILLIC CAPITAL LETTER A)")],
)
def test_answer_that_names_no_choice_is_shown(label, words, tmp_path):
    write(tmp_path / "law.jsonl", rows(20, label=label))
    assert words in refusal(tmp_path)[0]


def held_out(dataset: Dataset) -> tuple[set[str], set[str]]:
    """The questions of validation and test."""
    data = dataset.tasks["law"]
    return {row.question for row in data.validation}, {row.question for row in data.test}


def test_held_out_rows_are_chosen_by_what_they_say(tmp_path):
    write(tmp_path / "law.csv", rows(50))
    first = load(tmp_path, holdout=0.2)
    assert first.counts() == {"law": {"train": 32, "validation": 8, "test": 10}}
    ids = [row.id for row in [*first.train, *first.tasks["law"].validation, *first.tasks["law"].test]]
    assert sorted(ids) == sorted(f"train/{line}" for line in range(2, 52))
    (tmp_path / "law.csv").unlink()
    write(tmp_path / "law.jsonl", rows(50)[::-1])
    assert held_out(load(tmp_path, holdout=0.2)) == held_out(first)


def test_inserted_row_changes_at_most_one_of_the_held_out_ones(tmp_path):
    write(tmp_path / "law.jsonl", rows(50))
    before = held_out(load(tmp_path, holdout=0.2))[1]
    write(tmp_path / "law.jsonl", [{**rows(1)[0], "q": "Another?"}, *rows(50)])
    assert len(before - held_out(load(tmp_path, holdout=0.2))[1]) <= 1


def test_equal_rows_and_questions_on_one_passage_stay_on_one_side(tmp_path):
    both = [{**row, "context": f"Passage {i // 2}."} for i, row in enumerate(rows(60))]
    write(tmp_path / "law.jsonl", [*both, *both])
    data = load(tmp_path, holdout=0.2).tasks["law"]
    sides = [{row.context for row in split} for split in (data.train, data.validation, data.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 30
    assert all(sides)


def test_plain_texts_are_validated_and_not_tested(tmp_path):
    write(tmp_path / "law.jsonl", [{"text": f"Paragraph {i}."} for i in range(20)])
    dataset = load(tmp_path, {})
    assert dataset.counts() == {"law": {"train": 18, "validation": 2, "test": 0}}
    assert dataset.tasks["law"].task.scored is False


def test_ids_that_rows_share_are_numbered_and_noted(tmp_path):
    write(tmp_path / "law.jsonl", [{**row, "n": i // 2} for i, row in enumerate(rows(20))])
    dataset = load(tmp_path, {**MAP, "id": "n"})
    assert {row.id for row in dataset.train} <= {f"{i}/{k}" for i in range(10) for k in (1, 2)}
    assert dataset.notes == [
        "law: 20 of 20 train rows share their id ('n') with another: they are numbered, as in 7/1 and 7/2"
    ]
    write(tmp_path / "law.jsonl", [{**row, "id": "biology"} for row in rows(20)])
    aside = load(tmp_path, {**MAP, "id": None})
    assert (aside.notes, aside.train[0].id.startswith("train/")) == ([], True)


@pytest.mark.parametrize(
    ("count", "files", "words"),
    [
        (0, ["law.jsonl"], "law.jsonl: has no rows"),
        (0, ["law.csv"], "law.csv: has no rows"),
        (2, ["law.jsonl"], "law.jsonl: has 2 rows; a share of them is held out for test and for validation"),
        (
            1,
            ["law/train.jsonl", "law/test.jsonl"],
            "law/train.jsonl: has 1 rows; a share of them is held out for valid",
        ),
    ],
)
def test_too_few_rows_are_refused_with_the_file_and_their_number(count, files, words, tmp_path):
    for name in files:
        write(tmp_path / name, rows(count))
    assert [message.startswith(words) for message in refusal(tmp_path)] == [True]


def test_too_few_different_rows_are_refused_with_their_number(tmp_path):
    write(tmp_path / "law.jsonl", rows(2) * 6)
    (message,) = refusal(tmp_path)
    assert "law.jsonl: has 12 rows, of which 2 differ; a share of them is held out for test and for valid" in message


def test_file_named_as_a_test_is_never_trained_on(tmp_path):
    path = write(tmp_path / "law_test.jsonl", rows(20))
    with pytest.raises(UserError, match="never trained on"):
        load(path)
    assert load(path, training=False).counts()["law"]["test"] == 20


def test_equal_choices_are_noted_and_not_refused(tmp_path):
    write(tmp_path / "law.csv", [{**row, "options": ["x", "x", "y", "z"]} for row in rows(30)])
    assert load(tmp_path).notes == ["law: 30 rows have two equal choices"]
