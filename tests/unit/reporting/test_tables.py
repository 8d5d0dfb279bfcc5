"""Tables against numbers worked out by hand."""

import pytest

from mosld.reporting.table import Cell, Table, mark_best, unlike
from mosld.reporting.tables import cost_table, gains_table, paper_numbers, paper_table, scores_table
from tests.helpers.result_trees import blocks, right, run, single


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_mean_and_deviation_over_seeds():
    # obqa 50 and 100: mean 75, deviation 35.36; csqa 100 twice; averages 75 and 100: mean 87.5, deviation 17.68.
    (block,) = blocks(run(), run({"obqa": right("11"), "csqa": right("11")}, seed=1))
    assert texts(scores_table(block, {})) == [["mosld", "75.0 ± 35.4", "100.0 ± 0.0", "87.5 ± 17.7", "2", "1,000"]]


def test_one_seed_has_no_deviation():
    (block,) = blocks(run())
    assert texts(scores_table(block, {})) == [["mosld", "50.0", "100.0", "75.0", "1", "1,000"]]


def test_the_best_is_marked_with_all_that_read_the_same():
    rows = [[Cell("", value)] for value in (61.24, 61.2, 60.9, None)]
    mark_best(rows, 0)
    assert [row[0].best for row in rows] == [True, True, False, False]


def test_a_missing_cell_is_shown_and_no_average_is_made_without_it():
    (block,) = blocks(single("obqa"), single("csqa"), single("obqa", method="lora"))
    assert texts(scores_table(block, {}))[0] == ["lora", "50.0", "-", "-", "1", "1,000"]


def test_the_untrained_model_has_a_row():
    base = {"base_scores": {"obqa": {"accuracy": 0.25}, "csqa": {"accuracy": 0.5}}}
    (block,) = blocks(run(**base))
    assert texts(scores_table(block, {}))[0] == ["(untrained)", "25.0", "50.0", "37.5", "-", "0"]


def test_a_mark_stands_behind_its_number():
    (block,) = blocks(run())
    assert texts(scores_table(block, {("mosld", "obqa"): "*"}))[0][1] == "50.0*"


def test_each_number_knows_its_runs():
    (block,) = blocks(run(seed=0, name="a"), run(seed=1, name="b"))
    cells = scores_table(block, {}).rows[0]
    assert [sorted(str(found.path) for found in cell.runs) for cell in cells[1:4]] == [["a", "b"]] * 3


def test_mixture_minus_single():
    # Mixture: obqa 50 and 100 over two seeds; alone: 50. So +25; csqa was not trained alone.
    mixture, alone = blocks(
        run(seed=0), run({"obqa": right("11"), "csqa": right("11")}, seed=1), single("obqa"), single("csqa", rows="b")
    )
    table = gains_table(mixture, [alone], {})
    assert table
    assert texts(table) == [["mosld", "+25.0", "-", "-"]]


def test_there_is_no_gain_without_a_single_run_on_the_same_rows():
    mixture, alone = blocks(run(), single("obqa", rows="b"))
    assert gains_table(mixture, [alone], {}) is None


def test_costs_are_means_in_minutes_and_gigabytes():
    (block,) = blocks(run(seed=0, train_seconds=60.0), run(seed=1, train_seconds=180.0))
    assert texts(cost_table(block)) == [["mosld", "1,000", "1.000", "2.00", "2.00", "500", "2.00"]]


def test_costs_that_no_run_recorded_are_missing():
    (block,) = blocks(run(parameters={}, seconds=None, train_seconds=None))
    assert texts(cost_table(block))[0][1:5] == ["-", "-", "-", "-"]


def test_the_papers_weights_stand_beside_ours_with_the_erratum():
    (block,) = blocks(run(model="llama2_7b", parameters={"trainable": 13_893_632, "total": 6_752_309_248}))
    table = paper_table(block, paper_numbers())
    assert table
    assert texts(table) == [["mosld", "trained weights", "13,893,632", "13,893,632 (printed 1.389B †)", "+0"]]
    assert any("off by 100" in note for note in table.notes)


def test_the_paper_says_nothing_of_other_models():
    (block,) = blocks(run())
    assert paper_table(block, paper_numbers()) is None


def scored(source: str) -> list[list[str]]:
    numbers = {"parameters": {}, "errata": {}, "scores": {"toy": {"mixture": {"mosld": {"obqa": 45.0}}}}}
    ours = run()
    ours.results["data"]["source"] = source
    (block,) = blocks(ours)
    table = paper_table(block, numbers)
    return texts(table) if table else []


def test_the_papers_scores_stand_beside_ours():
    assert scored("hub") == [["mosld", "obqa", "50.00", "45.00", "+5.00"]]


def test_the_papers_scores_never_stand_beside_those_of_made_up_data():
    assert scored("bundled") == []


def test_tables_of_one_title_have_two_names():
    table = Table("a b", ["x"], [])
    assert [name for name, _ in unlike([table, table])] == ["a-b", "a-b-2"]


@pytest.mark.parametrize("model", sorted(paper_numbers()["parameters"]))
def test_the_numbers_of_the_paper_are_shares_of_its_table(model: str):
    # Printed in B and off by 100: 0.419B stands for 4.19 M.
    for entry in paper_numbers()["parameters"][model]:
        printed = float(entry["printed"].rstrip("B")) * 1e9 / 100
        assert printed == pytest.approx(entry["weights"], rel=2e-3)
