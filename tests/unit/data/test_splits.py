"""Splits and samples as functions of ids only, and the fingerprint of the rows."""

import dataclasses
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import Dataset, load_dataset
from mosld.data.rows import Row
from mosld.data.splits import TaskData, needed_splits, sample, split_rows
from mosld.data.tasks import TASKS

BUNDLED = SourceConfig(name="bundled")


def rows(count: int, question: str = "What?") -> list[Row]:
    return [Row("csqa", f"row-{i}", "", question, ("x", "y"), i % 2) for i in range(count)]


def shuffled(items: list[Row]) -> list[Row]:
    return random.Random(1).sample(items, len(items))


def ids(items: list[Row]) -> list[str]:
    return [row.id for row in items]


def csqa(train: list[Row], limit: int | None = None) -> TaskData:
    return split_rows(TASKS["csqa"], {"train": train, "validation": rows(7, "Test?")}, limit)


def test_sample_has_the_wanted_number_of_rows_in_their_own_order():
    numbers = [int(row.id.split("-")[1]) for row in sample(rows(50), 12, "train")]
    assert (len(numbers), numbers) == (12, sorted(numbers))


@pytest.mark.parametrize("count", [None, 50, 51])
def test_sample_of_all_rows_is_all_rows(count):
    assert sample(rows(50), count, "train") == rows(50)


def test_sample_depends_on_ids_and_purpose_only():
    chosen = set(ids(sample(rows(50), 12, "train")))
    assert set(ids(sample(shuffled(rows(50)), 12, "train"))) == chosen
    assert set(ids(sample(rows(50, "Other?"), 12, "train"))) == chosen
    assert set(ids(sample(rows(50), 12, "validation"))) != chosen


def test_smaller_sample_is_part_of_a_larger_one():
    assert set(sample(rows(50), 5, "train")) < set(sample(rows(50), 12, "train"))


def test_csqa_holds_out_a_tenth_of_train():
    data = csqa(rows(200))
    assert (len(data.train), len(data.validation)) == (180, 20)
    assert sorted(ids(data.train) + ids(data.validation)) == sorted(ids(rows(200)))
    assert data.test == rows(7, "Test?")


@pytest.mark.parametrize("train", [shuffled(rows(200)), rows(200, "Other?")], ids=["order", "texts"])
def test_hold_out_depends_on_ids_only(train):
    assert set(ids(csqa(train).validation)) == set(ids(csqa(rows(200)).validation))


def test_limit_changes_neither_hold_out_nor_test():
    data = csqa(rows(200), limit=150)
    assert data.validation == csqa(rows(200)).validation
    assert (len(data.train), len(data.test), set(ids(data.train)) & set(ids(data.validation))) == (150, 7, set())


def test_published_validation_is_used():
    published = {"train": rows(30), "validation": rows(5, "Validation?"), "test": rows(6, "Test?")}
    data = split_rows(TASKS["obqa"], published, limit=None)
    assert (data.train, data.validation, data.test) == tuple(published.values())


def paper(train: list[Row], validation: list[Row]) -> TaskData:
    published = {"train": train, "validation": validation, "test": rows(6, "Test?")}
    return split_rows(TASKS["obqa"], published, None, "paper")


def test_paper_policy_joins_train_and_validation_and_holds_out_a_tenth():
    validation = [dataclasses.replace(row, id=f"v{row.id}") for row in rows(50, "Validation?")]
    data = paper(rows(150), validation)
    assert (len(data.train), len(data.validation), data.test) == (180, 20, rows(6, "Test?"))
    assert sorted(ids(data.train) + ids(data.validation)) == sorted(ids(rows(150)) + ids(validation))


def test_paper_policy_keeps_rows_with_equal_ids_in_both_splits():
    data = paper(rows(30), rows(30, "Validation?"))
    texts = {(row.id, row.question) for row in [*data.train, *data.validation]}
    assert len(data.train) + len(data.validation) == len(texts) == 60


def test_paper_policy_keeps_the_test_of_csqa():
    published = {"train": rows(200), "validation": rows(7, "Test?")}
    assert split_rows(TASKS["csqa"], published, None, "paper") == csqa(rows(200))


@pytest.mark.parametrize(
    ("task", "training", "splits"),
    [
        ("obqa", True, ("train", "validation", "test")),
        ("obqa", False, ("test",)),
        ("csqa", True, ("train", "validation")),
        ("csqa", False, ("validation",)),
        ("openorca", True, ("train",)),
        ("openorca", False, ()),
    ],
)
def test_task_needs_the_files_of_its_split_rule(task, training, splits):
    assert needed_splits(TASKS[task], training) == splits


def test_n_openorca_takes_so_many_rows_and_fewer_are_part_of_more():
    samples = [
        {row.id for row in load_dataset(DataConfig(tasks=["obqa", "openorca"], n_openorca=n), BUNDLED).train}
        for n in (100, 300)
    ]
    assert [len({name for name in sample if name.startswith("openorca")}) for sample in samples] == [100, 300]
    assert samples[0] < samples[1]


def test_more_rows_of_openorca_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"data.n_openorca=2001: the bundled source has 2000 rows"):
        load_dataset(DataConfig(tasks=["obqa", "openorca"], n_openorca=2001), BUNDLED)


def test_mixture_openorca_is_the_mixture_with_the_papers_smallest_sample():
    data = load_config(["data=mixture_openorca"]).data
    assert (data.tasks, data.n_openorca) == ([*load_config([]).data.tasks, "openorca"], 1375)


def test_openorca_alone_cannot_be_scored():
    with pytest.raises(UserError, match="nothing to score"):
        load_dataset(DataConfig(tasks=["openorca"]), BUNDLED, training=False)


def dataset(**changes: Any) -> Dataset:
    """Four rows in three splits; the first train row is changed."""
    first = Row("obqa", "1", "Passage.", "What?", ("x", "y"), 0)
    two, three, four = (dataclasses.replace(first, id=str(i)) for i in (2, 3, 4))
    return Dataset({"obqa": TaskData(TASKS["obqa"], [dataclasses.replace(first, **changes), two], [three], [four])}, "")


@pytest.mark.parametrize(
    "change",
    [
        {"id": "9"},
        {"context": "Passage"},
        {"question": "what?"},
        {"choices": ("x", "z")},
        {"choices": ("y", "x")},
        {"choices": ("x", "y", "z")},
        {"answer": 1},
        {"task": "csqa"},
    ],
)
def test_fingerprint_changes_with_any_field_of_a_row(change):
    assert dataset(**change).fingerprint != dataset().fingerprint


def test_fingerprint_changes_with_split_and_order_of_rows():
    data = dataset().tasks["obqa"]
    moved = TaskData(data.task, data.train[:1], [data.train[1], *data.validation], data.test)
    reversed_train = TaskData(data.task, data.train[::-1], data.validation, data.test)
    fingerprints = {Dataset({"obqa": rows}, "").fingerprint for rows in (data, moved, reversed_train)}
    assert len(fingerprints) == 3


def test_fingerprint_of_a_row_is_what_earlier_runs_recorded():
    assert dataset().fingerprint == "066b21a1cc451de2"


def test_task_has_the_same_fingerprint_in_a_mixture_and_on_its_own():
    obqa = dataset().tasks["obqa"]
    csqa = TaskData(TASKS["csqa"], obqa.train[:1], obqa.validation, obqa.test)
    mixture, alone = Dataset({"obqa": obqa, "csqa": csqa}, ""), Dataset({"obqa": obqa}, "")
    assert mixture.fingerprints["obqa"] == alone.fingerprints["obqa"] == alone.fingerprint
    assert len({*mixture.fingerprints.values(), mixture.fingerprint}) == 3


def test_fingerprint_does_not_depend_on_the_directory(toy_root: Path, tmp_path: Path):
    shutil.copytree(toy_root, tmp_path / "elsewhere")
    tasks = DataConfig(tasks=["obqa", "csqa"])
    here = load_dataset(tasks, SourceConfig(name="local", root=str(toy_root)))
    there = load_dataset(tasks, SourceConfig(name="local", root=str(tmp_path / "elsewhere"), on_bad_row="skip"))
    assert here.fingerprint == there.fingerprint


def test_train_rows_come_task_after_task_in_the_configs_order(toy_root: Path):
    data = load_dataset(DataConfig(tasks=["csqa", "obqa"], limit=2), SourceConfig(name="local", root=str(toy_root)))
    assert [row.task for row in data.train] == ["csqa", "csqa", "obqa", "obqa"]
