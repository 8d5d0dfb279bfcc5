"""What may stand in one table, which rows it has, and what they are called."""

from pathlib import Path
from typing import Any

import pytest

from mosld.reporting.blocks import make_blocks
from mosld.reporting.collect import Found
from mosld.reporting.run import Run
from tests.helpers.result_trees import TWO, blocks, results, right, run, single


def names(*runs: Run) -> list[str]:
    (block,) = blocks(*runs)
    return [row.name for row in block.rows]


@pytest.mark.parametrize(
    "other",
    [
        {"model": "other"},
        {"rows": "b"},
        {"data": "mixture_gsm8k"},
        {"prompt": "cloze"},
        {"dtype": "bfloat16"},
        {"config": {"model.path": "elsewhere"}},
        {"outcomes": {"obqa": right("1010"), "csqa": right("1111")}},
    ],
    ids=str,
)
def test_no_table_mixes(other: dict[str, Any]):
    assert len(blocks(run(), run(**{"method": "lora", **other}))) == 2


def test_no_table_mixes_sources():
    other = results(TWO, method="lora")
    other["data"]["source"] = "local"
    assert len(blocks(run(), Run(Path("x"), other))) == 2


def test_an_evaluation_is_no_run_on_that_data():
    assert len(blocks(run(), run(trained_on="other", name="x"))) == 2


def test_evaluations_of_other_training_data_are_apart():
    found = blocks(run(trained_on="mixture"), run(trained_on="single_obqa", name="x"))
    assert sorted(block.title.split(":")[0] for block in found) == [
        "mixture, trained on mixture",
        "mixture, trained on single_obqa",
    ]


def test_seeds_of_one_cell_share_a_row():
    (block,) = blocks(run(seed=0), run(seed=1))
    (row,) = block.rows
    assert sorted(row.runs["obqa"]) == [0, 1]


def test_a_second_run_of_one_seed_is_left_out_with_the_reason():
    found = Found([run(name="first"), run(name="second")])
    (block,) = make_blocks(found)
    assert [(str(path), why) for path, why in found.left_out] == [
        ("second", "has the method, settings, data and seed of first")
    ]
    assert block.rows[0].all_runs[0].path == Path("first")


def test_one_setting_that_differs_names_every_row():
    assert names(run(), run(config={"method.rank": 4})) == ["mosld rank=4", "mosld rank=8"]


def test_values_are_in_the_order_of_their_size():
    assert names(*(run(config={"method.rank": rank}) for rank in (16, 2, 4))) == [
        "mosld rank=2", "mosld rank=4", "mosld rank=16",
    ]  # fmt: skip


def test_of_several_settings_each_row_tells_what_is_not_usual():
    found = names(run(), run(seed=1), run(config={"method.rank": 4}), run(config={"method.dropout": 0.3}))
    assert sorted(found) == ["mosld", "mosld dropout=0.3", "mosld rank=4"]


def test_the_usual_settings_are_noted():
    (block,) = blocks(run(), run(seed=1), run(config={"method.rank": 4}), run(config={"method.dropout": 0.3}))
    assert "mosld: dropout=0.1 rank=8, unless its name says otherwise." in block.facts


def test_an_allocation_is_told_by_its_shape_and_name():
    shapes = ({"allocation.experts": [8, 6, 4, 2]}, {"allocation.experts": [5, 5, 5, 4]})
    assert names(*(run(config=shape) for shape in shapes)) == ["mosld experts=5554", "mosld experts=8642 (triangle)"]


def test_overrides_name_rows_where_a_run_does_not_record_its_config():
    texts = (["method=mosld", "method.rank=4", "logger=files"], ["method=mosld", "method.rank=16", "seed=1"])
    found = [run(name=str(i), overrides=overrides) for i, overrides in enumerate(texts)]
    for one in found:
        del one.results["config"]  # type: ignore[attr-defined]
    assert names(*found) == ["mosld rank=4", "mosld rank=16"]


def test_methods_are_in_the_order_of_the_paper():
    methods = ("mosld", "zebra", "lora", "mola_authors", "full", "mola")
    assert names(*(run(method=method) for method in methods)) == [
        "full", "lora", "mola", "mola_authors", "mosld", "zebra",
    ]  # fmt: skip


def test_single_tasks_share_a_table():
    (block,) = blocks(single("csqa"), single("obqa"))
    assert (block.tasks, len(block.rows), block.single) == (["obqa", "csqa"], 1, True)


def test_two_sets_of_rows_of_one_task_are_two_tables():
    found = blocks(single("csqa"), single("obqa"), single("obqa", rows="b"))
    assert sorted(block.tasks for block in found) == [["obqa"], ["obqa", "csqa"]]


def test_single_tasks_of_two_limits_are_two_tables():
    found = blocks(single("obqa"), single("csqa", config={"data.limit": 8}))
    assert sorted(block.tasks for block in found) == [["csqa"], ["obqa"]]


def test_the_domains_of_a_mixture_of_domains_are_no_setting():
    tasks = {"data.tasks": ["obqa"], "method.domains": ["obqa"]}
    both = {"data.tasks": ["obqa", "csqa"], "method.domains": ["obqa", "csqa"]}
    assert run(config=tasks).row == run(config=both).row


@pytest.mark.parametrize(("rows", "same"), [("a", True), ("b", False)])
def test_a_mixture_is_comparable_where_the_rows_of_the_task_are_the_same(rows: str, same: bool):
    mixture, alone = blocks(run(), single("obqa", rows=rows))
    assert mixture.comparable(alone, "obqa") is same


def test_tasks_without_fingerprints_of_their_own_are_compared_by_their_counts():
    mixture, alone = run(), single("obqa")
    for found, train in ((mixture, 8), (alone, 9)):
        del found.results["data"]["fingerprints"]
        found.results["data"]["counts"] = {"obqa": {"train": train, "test": 2}}
    together, apart = blocks(mixture, alone)
    assert not together.comparable(apart, "obqa")


def test_the_average_needs_every_task():
    (block,) = blocks(single("obqa", seed=0), single("csqa", seed=0), single("obqa", seed=1))
    assert block.rows[0].averages(block.tasks) == {0: 0.5}


def test_notes_of_the_runs_are_facts_of_the_table():
    noted = run()
    noted.results["data"]["notes"] = ["obqa: 14 of 500 test items also stand in train"]
    (block,) = blocks(noted)
    assert "obqa: 14 of 500 test items also stand in train" in block.facts


def test_titles_say_what_sets_two_tables_apart():
    more = {task: 2 * items for task, items in TWO.items()}
    by_rows, by_items = blocks(run(), run(rows="b")), blocks(run(), run(more))
    assert [block.title.rpartition(", ")[2] for block in by_rows] == [
        "fingerprint obqa-csqa-a",
        "fingerprint obqa-csqa-b",
    ]
    assert [block.title.rpartition(", ")[2] for block in by_items] == ["4 test items", "8 test items"]


def test_a_title_of_its_own_says_no_more():
    (block,) = blocks(run())
    assert block.title == "mixture: toy float32, bundled data, prompt letter"


def test_recipes_of_two_commands_are_two_rows_where_no_config_is_recorded():
    found = [run(name=str(i), overrides=texts) for i, texts in enumerate((["training=paper"], ["training=default"]))]
    for one in found:
        del one.results["config"]  # type: ignore[attr-defined]
    assert names(*found) == ["mosld training=default", "mosld training=paper"]
