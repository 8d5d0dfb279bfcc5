"""Tables against numbers worked out by hand, and as Markdown, LaTeX and CSV."""

import csv
import io

import pytest

from mosld.reporting.blocks import make_blocks
from mosld.reporting.collect import collect
from mosld.reporting.compare import Comparer, Predictions
from mosld.reporting.table import NO_VALUE, Cell, Table, as_csv, file_names, latex, markdown
from mosld.reporting.tables import cost_table, gains_table, scores_table
from tests.helpers.result_trees import answers, blocks, run, single, write_run

ALL_CORRECT = {"obqa": answers("11"), "csqa": answers("11")}
TABLE = Table(
    "50 % of a_b",
    ["method", "obqa", "95 % interval"],
    [
        [Cell("lora|x"), Cell("61.2 ± 0.8*", 61.23, 0.81, 3, best=True), Cell("+0.1 to +2.0", 0.1)],
        [Cell("a_b"), NO_VALUE, NO_VALUE],
    ],
    ["A note with 5 % & more."],
)


def texts(table: Table | None) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows] if table else []


def test_scores_are_mean_and_deviation_over_seeds():
    (block,) = blocks(run())
    assert texts(scores_table(block, {}, {})) == [["mosld", "50.0", "100.0", "75.0", "1", "1,000"]]
    # obqa 50 and 100: mean 75, deviation 35.36; csqa 100 twice; averages 75 and 100: mean 87.5, deviation 17.68.
    (block,) = blocks(run(), run(ALL_CORRECT, seed=1))
    assert texts(scores_table(block, {}, {})) == [["mosld", "75.0 ± 35.4", "100.0", "87.5 ± 17.7", "2", "1,000"]]


@pytest.mark.parametrize(
    ("better", "other", "bold"),
    # 60 of 100 items more; the same items right; one item more, whose interval holds 0.
    [
        ("1" * 100, "1" * 40 + "0" * 60, True),
        ("1100" * 25, "1100" * 25, False),
        ("1" + "1100" * 25, "0" + "1100" * 25, False),
    ],
)
def test_bold_is_what_is_better_beyond_the_interval_over_items(better: str, other: str, bold: bool, tmp_path):
    for method, pattern in (("mosld", better), ("lora", other)):
        write_run(tmp_path / method, {"obqa": answers(pattern)}, method=method)
    (block,) = make_blocks(collect([str(tmp_path)]))
    winners = Comparer(Predictions(), 2000).winners(block)
    assert winners == ({"obqa": "mosld"} if bold else {})
    cells = {row[0].text: row[1].best for row in scores_table(block, {}, winners).rows}
    assert cells == {"lora": False, "mosld": bold}


def test_nothing_is_bold_without_predictions():
    (block,) = blocks(run(ALL_CORRECT), run(method="lora"))
    assert Comparer(Predictions(), 0).winners(block) == {}


def test_column_without_values_is_left_out():
    table = Table("t", ["a", "b", "c"], [[Cell("x"), NO_VALUE, Cell("1", 1)], [Cell("y"), NO_VALUE, NO_VALUE]])
    assert table.without_empty_columns().columns == ["a", "c"]
    assert texts(table.without_empty_columns()) == [["x", "1"], ["y", "-"]]


def test_missing_cell_is_a_dash_and_there_is_no_average_without_it():
    (block,) = blocks(single("obqa"), single("csqa"), single("obqa", method="lora"))
    assert texts(scores_table(block, {}, {}))[0] == ["lora", "50.0", "-", "-", "1", "1,000"]


def test_untrained_model_has_a_row():
    (block,) = blocks(run(base_scores={"obqa": {"accuracy": 0.25}, "csqa": {"accuracy": 0.5}}))
    assert texts(scores_table(block, {}, {}))[0] == ["(untrained)", "25.0", "50.0", "37.5", "-", "0"]


def test_other_scores_of_solutions_have_columns_and_older_results_a_dash():
    score = {"accuracy": 0.5, "n": 4, "strict": 0.25, "stderr_strict": 0.2, "flexible": 0.75, "stderr_flexible": 0.2}
    base = {"gsm8k": {**score, "strict": 0.0}}
    new = run({"gsm8k": answers("1100")}, scores={"gsm8k": score}, base_scores=base)
    (block,) = blocks(new, run({"gsm8k": answers("1100")}, method="lora", base_scores=base))
    table = scores_table(block, {}, {})
    assert table.columns == ["method", "gsm8k", "gsm8k, strict", "gsm8k, flexible", "seeds", "trained weights"]
    assert [row[:4] for row in texts(table)] == [
        ["(untrained)", "50.0", "0.0", "75.0"], ["lora", "50.0", "-", "-"], ["mosld", "50.0", "25.0", "75.0"],
    ]  # fmt: skip


def test_mark_is_behind_its_number_and_each_number_knows_its_runs():
    (block,) = blocks(run(seed=0, name="a"), run(ALL_CORRECT, seed=1, name="b"))
    cells = scores_table(block, {("mosld", "obqa"): "*"}, {}).rows[0]
    assert cells[1].text == "75.0 ± 35.4*"
    assert [sorted(str(run.path) for run in cell.runs) for cell in cells[1:4]] == [["a", "b"]] * 3


@pytest.mark.parametrize(("seeds", "gain"), [((0, 1), "+25.0"), ((0,), "+0.0"), ((1, 2), "+50.0"), ((2,), "+25.0")])
def test_mixture_minus_single(seeds: tuple[int, ...], gain: str):
    # Mixture: obqa 50 and 100 for seeds 0 and 1; alone: 50. Over the seeds of both, or all; csqa was not trained alone.
    alone = [single("obqa", seed=seed) for seed in seeds]
    mixture, singles = blocks(run(seed=0), run(ALL_CORRECT, seed=1), *alone, single("csqa", rows="b"))
    assert texts(gains_table(mixture, [singles], {})) == [["mosld", gain, "-", "-"]]


def test_mixture_minus_single_at_equal_steps():
    # Alone for two epochs: 10 steps, 50 %. For as many steps as the mixture: 100 %.
    two, eight = ({"training.epochs": epochs, "training.max_steps": None} for epochs in (2, 8))
    mixture, alone = blocks(
        run(config=two, steps=40),
        single("obqa", config=two, steps=10),
        run({"obqa": answers("11")}, data="single_obqa", config=eight, steps=40, name="obqa"),
        run({"csqa": answers("11")}, data="single_csqa", config=eight, steps=39, name="csqa"),
    )
    assert texts(gains_table(mixture, [alone], {})) == [["mosld epochs=2", "+0.0", "-", "-"]]
    table = gains_table(mixture, [alone], {}, equal_steps=True)
    assert texts(table) == [["mosld epochs=2", "-50.0", "-", "-"]]
    assert table is not None
    assert table.title.startswith("mixture minus single at equal steps, mixture: toy")


@pytest.mark.parametrize("steps", [40, None])
def test_the_same_settings_are_no_runs_at_equal_steps(steps: int | None):
    mixture, alone = blocks(run(steps=steps), single("obqa", steps=steps))
    assert gains_table(mixture, [alone], {}, equal_steps=True) is None


def test_steps_that_are_not_known_are_not_equal():
    mixture, alone = blocks(run(), single("obqa", config={"training.epochs": 8}))
    assert gains_table(mixture, [alone], {}, equal_steps=True) is None


def test_no_gain_without_a_single_run_on_the_same_rows():
    mixture, alone = blocks(run(), single("obqa", rows="b"))
    assert gains_table(mixture, [alone], {}) is None


def test_costs_are_means_in_minutes_and_gigabytes_or_missing():
    (block,) = blocks(run(seed=0, train_seconds=60.0), run(seed=1, train_seconds=180.0))
    assert texts(cost_table(block)) == [["mosld", "1,000", "1.000", "2.00", "2.00", "500", "2.00"]]
    (block,) = blocks(run(parameters={}, seconds=None, train_seconds=None))
    assert texts(cost_table(block))[0][1:5] == ["-", "-", "-", "-"]


def test_equal_titles_have_two_file_names():
    assert file_names(["a b", "A, b", "c"]) == ["a-b", "a-b-2", "c"]


def test_markdown_escapes_and_aligns():
    assert markdown(TABLE).splitlines()[2:8] == [
        "| method | obqa | 95 % interval |",
        "| --- | ---: | ---: |",
        r"| lora\|x | **61.2 ± 0.8\*** | +0.1 to +2.0 |",
        "| a_b | - | - |",
        "",
        "A note with 5 % & more.  ",
    ]


def test_latex_has_booktabs_and_escapes():
    text = latex(TABLE)
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"lora|x & \textbf{61.2 $\pm$ 0.8*} & +0.1 to +2.0 \\" in text
    assert r"a\_b & - & - \\" in text
    assert r"\caption{50 \% of a\_b. A note with 5 \% \& more.}" in text


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@SUM(A1)"])
def test_csv_text_that_a_table_editor_would_run_is_quoted(text):
    table = Table("t", ["method", text], [[Cell(text), Cell("-1", -1.0)]])
    assert list(csv.reader(io.StringIO(as_csv(table)))) == [["method", f"'{text}"], [f"'{text}", "-1.0"]]


@pytest.mark.parametrize(("text", "cell"), [("\t=1", r"\t=1"), ("\r=1", r"\r=1"), ("a\n=1", r"a\n=1")])
def test_csv_cell_is_one_line(text, cell):
    assert as_csv(Table("t", ["method"], [[Cell(text)]])) == f"method\n{cell}\n"


def test_names_are_no_markup():
    name = "a|b*c`<script>$x$"
    text = markdown(Table(name, ["method"], [[Cell(name)]], [name]))
    assert text.count(r"a\|b\*c\`\<script>\$x\$") == 3


def test_csv_has_unrounded_numbers_and_empty_cells():
    assert list(csv.reader(io.StringIO(as_csv(TABLE)))) == [
        ["method", "obqa", "obqa std", "obqa seeds", "95 % interval"],
        ["lora|x", "61.23", "0.81", "3", "+0.1 to +2.0"],
        ["a_b", "", "", "", ""],
    ]
