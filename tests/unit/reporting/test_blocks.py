"""Which runs share a table, which rows it has, and how they are named."""

from pathlib import Path
from typing import Any

import pytest

from mosld.reporting.blocks import make_blocks
from mosld.reporting.collect import CollectedRuns
from mosld.reporting.run import Run
from tests.helpers.result_trees import TWO, answers, blocks, run, single


def names(*runs: Run) -> list[str]:
    (block,) = blocks(*runs)
    return [row.name for row in block.rows]


@pytest.mark.parametrize(
    "other",
    [
        {"model": "other"},
        {"rows": "b"},
        {"source": "local"},
        {"data": "mixture_gsm8k"},
        {"prompt": "cloze"},
        {"dtype": "bfloat16"},
        {"config": {"model.path": "elsewhere"}},
        {"by_task": {"obqa": answers("1010"), "csqa": answers("1111")}},
        {"trained_on": "other"},
    ],
    ids=str,
)
def test_runs_that_differ_in_model_source_prompt_or_rows_are_in_two_tables(other: dict[str, Any]):
    assert len(blocks(run(), run(**{"method": "lora", "name": "x", **other}))) == 2


def test_evaluations_of_two_training_data_are_in_two_tables():
    titles = [block.title for block in blocks(run(trained_on="mixture"), run(trained_on="single_obqa", name="x"))]
    assert [title.split(":")[0] for title in titles] == [
        "mixture, trained on mixture", "mixture, trained on single_obqa",
    ]  # fmt: skip


def test_two_seeds_share_a_row():
    (block,) = blocks(run(seed=0), run(seed=1))
    (row,) = block.rows
    assert sorted(row.runs["obqa"]) == [0, 1]


def test_second_run_of_a_seed_is_left_out_with_the_reason():
    collected = CollectedRuns([run(name="first"), run(name="second")])
    (block,) = make_blocks(collected)
    assert collected.left_out == [(Path("second"), "has the method, settings, data and seed of first")]
    assert block.rows[0].all_runs[0].path == Path("first")


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ([{}, {"method.rank": 4}], ["mosld rank=4", "mosld rank=8"]),
        ([{"method.rank": rank} for rank in (16, 2, 4)], ["mosld rank=2", "mosld rank=4", "mosld rank=16"]),
        (
            [{"allocation.experts": [8, 6, 4, 2]}, {"allocation.experts": [5, 5, 5, 4]}],
            ["mosld experts=5554", "mosld experts=8642 (triangle)"],
        ),
        ([{"training.name": name} for name in ("paper", "default")], ["mosld name=default", "mosld name=paper"]),
    ],
    ids=["one setting", "numbers by size", "allocations", "texts"],
)
def test_rows_that_differ_in_one_setting_all_name_it(configs: list[dict[str, object]], expected: list[str]):
    assert names(*(run(config=config) for config in configs)) == expected


def test_rows_that_differ_in_several_settings_name_those_that_are_not_the_most_common():
    runs = [run(), run(seed=1), run(config={"method.rank": 4}), run(config={"method.dropout": 0.3})]
    assert sorted(names(*runs)) == ["mosld", "mosld dropout=0.3", "mosld rank=4"]
    assert "mosld: dropout=0.1 rank=8, unless its name says otherwise." in blocks(*runs)[0].facts


def test_methods_are_in_the_order_of_the_paper():
    methods = ("mosld", "zebra", "lora", "mola_authors", "full", "mola")
    assert names(*(run(method=method) for method in methods)) == [
        "full", "lora", "mola", "mola_authors", "mosld", "zebra",
    ]  # fmt: skip


def test_single_tasks_share_a_table():
    (block,) = blocks(single("csqa"), single("obqa"))
    assert (block.tasks, len(block.rows), block.single_tasks) == (["obqa", "csqa"], 1, True)


@pytest.mark.parametrize(
    ("other", "tables"),
    [
        ({"rows": "b"}, [["obqa"], ["obqa", "csqa"]]),
        ({"config": {"data.limit": 8}}, [["obqa"], ["obqa", "csqa"]]),
    ],
    ids=["rows", "limit"],
)
def test_single_tasks_with_two_sets_of_rows_are_in_two_tables(other: dict[str, Any], tables: list[list[str]]):
    assert sorted(block.tasks for block in blocks(single("csqa"), single("obqa"), single("obqa", **other))) == tables


def test_domains_that_are_the_tasks_are_no_setting():
    one = {"data.tasks": ["obqa"], "method.domains": ["obqa"]}
    two = {"data.tasks": ["obqa", "csqa"], "method.domains": ["obqa", "csqa"]}
    assert run(config=one).row_key == run(config=two).row_key


@pytest.mark.parametrize(("rows", "same"), [("a", True), ("b", False)])
def test_mixture_is_comparable_if_the_rows_of_the_task_are_the_same(rows: str, same: bool):
    mixture, alone = blocks(run(), single("obqa", rows=rows))
    assert mixture.comparable(alone, "obqa") is same


def test_average_needs_every_task():
    (block,) = blocks(single("obqa", seed=0), single("csqa", seed=0), single("obqa", seed=1))
    assert block.rows[0].averages(block.tasks) == {0: 0.5}


def test_notes_of_the_runs_are_facts_of_the_table():
    noted = run()
    noted.results["data"]["notes"] = ["obqa: 14 of 500 test items also stand in train"]
    (block,) = blocks(noted)
    assert "obqa: 14 of 500 test items also stand in train" in block.facts


def test_title_is_heading_and_equal_titles_get_what_sets_them_apart():
    assert [block.title for block in blocks(run())] == ["mixture: toy float32, bundled data, prompt letter"]
    more_items = {task: 2 * items for task, items in TWO.items()}
    for other, expected in (
        (run(rows="b"), ["fingerprint obqa-csqa-a", "fingerprint obqa-csqa-b"]),
        (run(more_items), ["4 test items", "8 test items"]),
    ):
        assert [block.title.rpartition(", ")[2] for block in blocks(run(), other)] == expected
