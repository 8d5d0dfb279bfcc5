"""Splits and samples as functions of ids alone, and the fingerprint of what came out."""

import dataclasses
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import Dataset, load_dataset
from mosld.data.rows import Row
from mosld.data.splits import TaskData, needed_splits, sample, split_rows
from mosld.data.tasks import TASKS


def rows(count: int, question: str = "What?") -> list[Row]:
    return [Row("csqa", f"row-{i}", "", question, ("x", "y"), i % 2) for i in range(count)]


def shuffled(items: list[Row]) -> list[Row]:
    return random.Random(1).sample(items, len(items))


def ids(items: list[Row]) -> list[str]:
    return [row.id for row in items]


def csqa(train: list[Row], limit: int | None = None) -> TaskData:
    return split_rows(TASKS["csqa"], {"train": train, "validation": rows(7, "Test?")}, limit)


def test_a_sample_has_as_many_rows_as_asked_for():
    assert len(sample(rows(50), 12, "train")) == 12


@pytest.mark.parametrize("count", [None, 50, 51])
def test_a_sample_of_all_rows_is_all_rows(count: int | None):
    assert sample(rows(50), count, "train") == rows(50)


def test_a_sample_keeps_the_rows_own_order():
    numbers = [int(row.id.split("-")[1]) for row in sample(rows(50), 12, "train")]
    assert numbers == sorted(numbers)


def test_a_sample_does_not_depend_on_the_order_of_rows():
    assert set(ids(sample(shuffled(rows(50)), 12, "train"))) == set(ids(sample(rows(50), 12, "train")))


def test_a_smaller_sample_is_part_of_a_larger_one():
    assert set(sample(rows(50), 5, "train")) < set(sample(rows(50), 12, "train"))


def test_samples_for_two_purposes_differ():
    assert sample(rows(50), 12, "train") != sample(rows(50), 12, "validation")


def test_a_sample_depends_on_ids_alone():
    assert ids(sample(rows(50, "Other?"), 12, "train")) == ids(sample(rows(50), 12, "train"))


def test_csqa_holds_out_a_tenth_of_train():
    found = csqa(rows(200))
    assert (len(found.train), len(found.validation)) == (180, 20)


def test_train_and_held_out_rows_are_disjoint_and_complete():
    found = csqa(rows(200))
    assert sorted(ids(found.train) + ids(found.validation)) == sorted(ids(rows(200)))


def test_the_hold_out_does_not_depend_on_the_order_of_rows():
    assert set(ids(csqa(shuffled(rows(200))).validation)) == set(ids(csqa(rows(200)).validation))


def test_the_hold_out_does_not_depend_on_what_rows_say():
    assert ids(csqa(rows(200, "Other?")).validation) == ids(csqa(rows(200)).validation)


def test_the_hold_out_does_not_depend_on_the_limit():
    assert csqa(rows(200), limit=5).validation == csqa(rows(200)).validation


def test_a_limit_takes_train_rows_that_are_not_held_out():
    found = csqa(rows(200), limit=150)
    assert (len(found.train), set(ids(found.train)) & set(ids(found.validation))) == (150, set())


def test_the_official_validation_of_csqa_is_its_test():
    assert csqa(rows(20)).test == rows(7, "Test?")


def test_a_task_with_a_published_validation_uses_it():
    published = {"train": rows(30), "validation": rows(5, "Validation?"), "test": rows(6, "Test?")}
    found = split_rows(TASKS["obqa"], published, limit=None)
    assert (found.train, found.validation, found.test) == tuple(published.values())


def test_a_limit_leaves_validation_and_test():
    published = {"train": rows(30), "validation": rows(5), "test": rows(6)}
    found = split_rows(TASKS["obqa"], published, limit=3)
    assert (len(found.train), len(found.validation), len(found.test)) == (3, 5, 6)


def paper(train: list[Row], validation: list[Row]) -> TaskData:
    published = {"train": train, "validation": validation, "test": rows(6, "Test?")}
    return split_rows(TASKS["obqa"], published, None, "paper")


def test_the_papers_policy_joins_train_and_validation_and_holds_out_a_tenth():
    train, validation = rows(150), [dataclasses.replace(row, id=f"v{row.id}") for row in rows(50, "Validation?")]
    found = paper(train, validation)
    assert (len(found.train), len(found.validation), found.test) == (180, 20, rows(6, "Test?"))
    assert sorted(ids(found.train) + ids(found.validation)) == sorted(ids(train) + ids(validation))


def test_the_papers_policy_keeps_rows_apart_whose_ids_are_equal_in_both_splits():
    found = paper(rows(30), rows(30, "Validation?"))
    texts = [(row.id, row.question) for row in [*found.train, *found.validation]]
    assert (len(texts), len(set(texts))) == (60, 60)


def test_the_test_of_csqa_stays_its_test_under_the_papers_policy():
    published = {"train": rows(200), "validation": rows(7, "Test?")}
    assert split_rows(TASKS["csqa"], published, None, "paper") == csqa(rows(200))


@pytest.mark.parametrize(
    ("task", "training", "splits"),
    [
        ("obqa", True, ("train", "validation", "test")),
        ("obqa", False, ("test",)),
        ("csqa", True, ("train", "validation")),
        ("csqa", False, ("validation",)),
    ],
)
def test_a_task_reads_the_files_that_its_split_rule_needs(task: str, training: bool, splits: tuple[str, ...]):
    assert needed_splits(TASKS[task], training) == splits


def dataset(**changes: Any) -> Dataset:
    """Four rows in three splits, of which the first train row is changed."""
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
def test_the_fingerprint_changes_with_any_part_of_a_row(change: dict[str, Any]):
    assert dataset(**change).fingerprint != dataset().fingerprint


def test_the_fingerprint_changes_when_a_row_moves_to_another_split():
    data = dataset().tasks["obqa"]
    moved = TaskData(data.task, data.train[:1], [data.train[1], *data.validation], data.test)
    assert Dataset({"obqa": moved}, "").fingerprint != dataset().fingerprint


def test_the_fingerprint_changes_with_the_order_of_train_rows():
    data = dataset().tasks["obqa"]
    turned = TaskData(data.task, data.train[::-1], data.validation, data.test)
    assert Dataset({"obqa": turned}, "").fingerprint != dataset().fingerprint


def test_a_task_has_the_same_fingerprint_in_a_mixture_and_on_its_own():
    obqa = dataset().tasks["obqa"]
    csqa = TaskData(TASKS["csqa"], obqa.train[:1], obqa.validation, obqa.test)
    mixture, alone = Dataset({"obqa": obqa, "csqa": csqa}, ""), Dataset({"obqa": obqa}, "")
    assert mixture.fingerprints["obqa"] == alone.fingerprints["obqa"] == alone.fingerprint
    assert len({*mixture.fingerprints.values(), mixture.fingerprint}) == 3


def test_the_fingerprint_is_sixteen_hex_digits():
    assert len(bytes.fromhex(dataset().fingerprint)) == 8


def test_the_fingerprint_does_not_depend_on_where_the_rows_lie_or_how_they_were_read(toy_root: Path, tmp_path: Path):
    shutil.copytree(toy_root, tmp_path / "elsewhere")
    tasks = DataConfig(tasks=["obqa", "csqa"])
    here = load_dataset(tasks, SourceConfig(name="local", root=str(toy_root)))
    there = load_dataset(tasks, SourceConfig(name="local", root=str(tmp_path / "elsewhere"), on_bad_row="skip"))
    assert here.fingerprint == there.fingerprint


def test_train_rows_come_task_after_task_in_the_configs_order(toy_root: Path):
    found = load_dataset(DataConfig(tasks=["csqa", "obqa"], limit=2), SourceConfig(name="local", root=str(toy_root)))
    assert [row.task for row in found.train] == ["csqa", "csqa", "obqa", "obqa"]
