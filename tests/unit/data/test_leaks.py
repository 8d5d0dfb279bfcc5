"""Test items that are in train: counted by task over all train rows, and dropped with data.drop_leaks."""

import json
from pathlib import Path

import pytest

from mosld.common.files import write_json
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import Dataset, load_dataset
from mosld.data.leaks import Record, leak_notes
from mosld.runs.console import Console
from mosld.runs.tables import results_table

REAL = Path(__file__).parents[4] / "shared" / "data"


def question(name: str, text: str) -> dict:
    return {"id": name, "question": text, "choices": ["x", "y"], "answer": 0}


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """Two tasks; a test item of each is in arc_e's train, one of obqa's in its own, but for case and spaces."""
    texts = {
        "obqa": {"train": ["One?", "Two?", "Three?"], "validation": ["Four?"], "test": ["one?", "Five?", "Six?"]},
        "arc_e": {"train": [" FIVE? ", "Seven?", "Eight?"], "validation": ["Nine?"], "test": ["seven?", "Ten?"]},
    }
    for task, splits in texts.items():
        (tmp_path / task).mkdir()
        for split, questions in splits.items():
            lines = [json.dumps(question(f"{split}{i}", text)) for i, text in enumerate(questions)]
            (tmp_path / task / f"{split}.jsonl").write_text("\n".join(lines))
    return tmp_path


def load(root: Path, **keys) -> Dataset:
    return load_dataset(DataConfig(**{"tasks": ["obqa", "arc_e"], **keys}), SourceConfig(name="local", root=str(root)))


def test_leaks_count_the_train_rows_of_all_tasks(leaky):
    assert load(leaky).leaks == {"obqa": 2, "arc_e": 1}
    alone = load(leaky, tasks=["obqa"])
    assert (alone.leaks, alone.notes) == ({"obqa": 1}, ["obqa: 1 of 3 test items also stand in train"])


def test_order_and_case_of_choices_do_not_hide_a_leak_but_another_passage_is_another_item(leaky):
    rows = [
        {**question("t1", "Two?"), "choices": ["Y", "x"]},
        {**question("t2", "Three?"), "context": "Another passage."},
    ]
    (leaky / "obqa" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load(leaky, tasks=["obqa"]).leaks == {"obqa": 1}


def test_dropping_leaves_no_leak_and_reports_the_rows(leaky):
    before, after = load(leaky), load(leaky, drop_leaks=True)
    described = after.describe()
    assert (described["leaks"], described["dropped_leaks"]) == ({"obqa": 0, "arc_e": 0}, {"obqa": 1, "arc_e": 2})
    assert {name: count["train"] for name, count in after.counts().items()} == {"obqa": 2, "arc_e": 1}
    for task in ("obqa", "arc_e"):
        assert before.tasks[task].test == after.tasks[task].test
        assert before.tasks[task].validation == after.tasks[task].validation


def test_limit_counts_the_rows_that_are_left(leaky):
    assert [len(data.train) for data in load(leaky, drop_leaks=True, limit=2).tasks.values()] == [2, 1]


def test_scoring_reads_no_train_rows_and_counts_no_leaks(leaky):
    data = DataConfig(tasks=["obqa"])
    assert load_dataset(data, SourceConfig(name="local", root=str(leaky)), training=False).leaks is None


def copies(leaky: Path) -> None:
    """A validation item of obqa becomes a train and a test item, and a train row stands there twice."""
    for split, text in (("train", "Four?"), ("test", "FOUR?"), ("train", "Two?")):
        with (leaky / "obqa" / f"{split}.jsonl").open("a") as file:
            file.write("\n" + json.dumps(question(f"{split} {text}", text)))


def test_every_kind_of_row_in_two_splits_is_counted_and_dropped(leaky):
    copies(leaky)
    dataset = load(leaky, tasks=["obqa"])
    assert (dataset.leaks, dataset.other_leaks) == (
        {"obqa": 2}, {"chosen_by": {"obqa": 1}, "validation": {"obqa": 1}, "repeated": {"obqa": 1}},
    )  # fmt: skip
    assert [note.removeprefix("obqa: ") for note in dataset.notes] == [
        "2 of 4 test items also stand in train",
        "1 of 4 test items also stand in validation",
        "1 of 1 validation items also stand in train",
        "1 of 5 train rows stand there more than once",
    ]
    with (leaky / "obqa" / "validation.jsonl").open("a") as file:
        file.write("\n" + json.dumps(question("v", "Eleven?")))
    dropped = load(leaky, tasks=["obqa"], drop_leaks=True)
    assert (dropped.leaks, dropped.other_leaks) == ({"obqa": 0}, {})
    assert dropped.counts() == {"obqa": {"train": 2, "validation": 1, "test": 4}}


def test_scoring_counts_what_the_run_was_trained_on(leaky):
    trained = load(leaky)
    (leaky / "obqa" / "train.jsonl").unlink()
    data, source = DataConfig(tasks=["obqa"]), SourceConfig(name="local", root=str(leaky))
    scored = load_dataset(data, source, training=False, record=trained.record)
    assert scored.leaks == {"obqa": trained.leaks["obqa"]} == {"obqa": 2}


def test_record_survives_its_file_and_a_damaged_one_is_none(leaky, tmp_path):
    record = load(leaky, limit=2).record
    write_json(tmp_path / "rows.json", record.tree())
    again = Record.read(tmp_path / "rows.json")
    assert all((getattr(again, name) == getattr(record, name)).all() for name in ("train", "validation", "unused"))
    assert [len(getattr(record, name)) for name in ("train", "validation", "unused")] == [4, 2, 2]
    for damage in ("", "[]", '{"train": 3}', '{"train": "x", "validation": "", "unused": ""}'):
        (tmp_path / "rows.json").write_text(damage)
        assert Record.read(tmp_path / "rows.json") is None


def shown(leaky: Path, capsys, **keys) -> str:
    score = {"accuracy": 0.5, "stderr": 0.1, "n": 2}
    results = {
        "method": "m", "model": "tiny", "prompt": "letter", "scores": {"obqa": score}, "average": 0.5,
        "data": load(leaky, **keys).describe(),
    }  # fmt: skip
    Console().show(results_table(results))
    return " ".join(capsys.readouterr().out.split())


def test_results_table_has_a_note_on_leaks(leaky, capsys):
    foot = shown(leaky, capsys)
    assert "obqa: 2 of 3 test items also stand in train; arc_e: 1 of 2" in foot
    assert "data.drop_leaks=true" in foot


def test_results_table_has_a_note_on_dropped_rows(leaky, capsys):
    foot = shown(leaky, capsys, drop_leaks=True)
    assert "obqa: 1 train rows left out that stand in a test, in validation, or in train before" in foot
    assert "data.drop_leaks" not in foot


def test_results_without_leaks_have_no_notes():
    assert leak_notes({"source": "bundled", "counts": {}}) == []


@pytest.mark.parametrize(
    ("policy", "counts", "leaks"),
    [
        ("official", {"obqa": (4957, 500), "arc_e": (2251, 570), "arc_c": (1119, 299), "csqa": (8767, 974)}, (14, 3)),
        ("paper", {"obqa": (4911, 546), "arc_e": (2539, 282), "arc_c": (1276, 142), "csqa": (8767, 974)}, (13, 3)),
    ],
)
@pytest.mark.slow
def test_published_sets_have_these_rows_and_leaks(policy, counts, leaks):
    if not REAL.is_dir():
        pytest.skip(f"needs {REAL}, real copies of the published sets")
    dataset = load(REAL, tasks=["obqa", "arc_e", "arc_c", "csqa"], split_policy=policy)
    assert {name: (len(data.train), len(data.validation)) for name, data in dataset.tasks.items()} == counts
    assert dataset.leaks == {"obqa": leaks[0], "arc_e": leaks[1], "arc_c": 0, "csqa": 0}
