"""Comparisons of rows: paired by item and seed, corrected over a table."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mosld.reporting.blocks import Block, make_blocks
from mosld.reporting.collect import collect
from mosld.reporting.compare import (
    Comparer,
    Comparison,
    Predictions,
    comparison_table,
    gains_power_note,
    scores_power_note,
    significance_marks,
)
from mosld.reporting.significance import holm
from mosld.runs.power import seeds_needed, smallest_for_error, smallest_over_seeds
from tests.helpers.result_trees import answers, blocks, run, write_run

GOOD, BAD = answers("1" * 45 + "0" * 5), answers("1" * 15 + "0" * 35)


def block_of(folder: Path) -> Block:
    (block,) = make_blocks(collect([str(folder)]))
    return block


def compare(folder: Path, resamples: int = 2000) -> tuple[dict[tuple[str, str], Comparison], Predictions]:
    """Every row against mosld by (name, task), and the reader of predictions."""
    block, predictions = block_of(folder), Predictions()
    reference = next(row for row in block.rows if row.run.method == "mosld")
    rows = [row for row in block.rows if row is not reference]
    comparisons = Comparer(predictions, resamples).against(block, rows, reference)
    return {(comparison.name, comparison.task): comparison for comparison in comparisons}, predictions


@pytest.fixture
def good_and_bad(tmp_path: Path) -> Path:
    """Lora is better than mosld on obqa, and equal on csqa."""
    write_run(tmp_path / "a", {"obqa": GOOD, "csqa": GOOD}, method="lora")
    write_run(tmp_path / "b", {"obqa": BAD, "csqa": GOOD}, method="mosld")
    return tmp_path


@pytest.fixture
def three_seeds(tmp_path: Path) -> Path:
    for seed, (lora, mosld) in enumerate([("1110", "1000"), ("1111", "1000"), ("1101", "1100")]):
        for method, pattern in (("lora", lora), ("mosld", mosld)):
            by_task = {"obqa": answers(pattern), "csqa": answers("11")}
            write_run(tmp_path / f"{method}{seed}", by_task, method=method, seed=seed)
    return tmp_path


def test_accuracies_are_tested_as_by_scipy(three_seeds: Path):
    comparison = compare(three_seeds)[0]["lora", "obqa"]
    here, there = [0.75, 1.0, 0.75], [0.25, 0.25, 0.5]
    assert comparison.p["paired"] == pytest.approx(stats.ttest_rel(here, there).pvalue)
    assert comparison.p["welch"] == pytest.approx(stats.ttest_ind(here, there, equal_var=False).pvalue)
    assert comparison.difference == pytest.approx(0.5)


def test_items_are_paired_and_averaged_over_seeds(three_seeds: Path):
    lora, mosld = block_of(three_seeds).rows
    differences = Predictions().differences(lora.runs["obqa"], mosld.runs["obqa"], "obqa")
    # Item by item over the seeds: 0+0+0, 1+1+0, 1+1+0, 0+1+1, each of three.
    assert differences is not None
    assert differences.tolist() == pytest.approx([0, 2 / 3, 2 / 3, 2 / 3])


def test_power_note_is_of_the_same_items_and_of_the_seeds(three_seeds: Path):
    comparisons, _ = compare(three_seeds)
    lora, mosld = ([0.75, 1.0, 0.75], [0.25, 0.25, 0.5])
    deviation = math.sqrt((stats.tvar(lora) + stats.tvar(mosld)) / 2)
    assert comparisons["lora", "obqa"].seeds_needed == str(seeds_needed(0.5, deviation))
    # On average over obqa and csqa, which all get right: half of the deviation, and half of the bootstrap's error.
    note = scores_power_note(block_of(three_seeds), list(comparisons.values()))
    assert note is not None
    errors = np.std([0, 2 / 3, 2 / 3, 2 / 3]) / math.sqrt(4) / 2
    over_items, over_seeds = (float(number) for number in re.findall(r"(\d+\.\d) (?:points )?over", note))
    # The deviation of 2,000 resamples is off by 1 / sqrt(4000), 1.6 %, and rarely by five times as much.
    assert over_items == pytest.approx(100 * smallest_for_error(errors), rel=0.08)
    assert over_seeds == pytest.approx(100 * smallest_over_seeds(deviation / 2, 3), abs=0.05)
    assert f"lora - mosld (+25.0) needs {seeds_needed(0.25, deviation / 2)} seeds a side" in note


def test_power_note_without_predictions_or_seeds_is_of_independent_items(tmp_path: Path):
    for method, pattern in (("mosld", "10" * 50), ("lora", "1" * 100)):
        write_run(tmp_path / method, {"obqa": answers(pattern)}, method=method)
    comparisons, _ = compare(tmp_path, resamples=0)
    # The root mean square of 2.8016 sqrt(2 / 4 / 100) and 2.8016 sqrt(2 (101/102) (1/102) / 100).
    assert scores_power_note(block_of(tmp_path), list(comparisons.values())) == (
        "Smallest difference that could be shown (power 0.8, alpha 0.05): 14.3 points over items; over seeds: one run "
        "cannot tell"
    )


def test_results_without_a_number_of_items_have_no_power_note():
    (block,) = blocks(run(scores={"obqa": {"accuracy": 0.5}}))
    assert scores_power_note(block, []) is None


def test_clear_difference_is_starred_and_the_average_is_that_of_the_tasks(good_and_bad: Path):
    comparisons, _ = compare(good_and_bad)
    assert set(significance_marks(list(comparisons.values()))) == {("lora", "obqa"), ("lora", "average")}
    average = comparisons["lora", "average"]
    assert average.difference == pytest.approx(0.3)
    assert average.interval is not None
    assert average.interval[0] < 0.3 < average.interval[1]


def test_holm_correction_is_over_the_whole_table(tmp_path: Path):
    write_run(tmp_path / "m", {"obqa": GOOD, "csqa": GOOD}, method="mosld")
    for method in ("lora", "mola"):
        write_run(tmp_path / method, {"obqa": answers("10" * 25), "csqa": GOOD}, method=method)
    comparisons = list(compare(tmp_path)[0].values())
    uncorrected = [comparison.p["items"] for comparison in comparisons]
    assert len(uncorrected) == 6
    assert [comparison.corrected["items"] for comparison in comparisons] == holm(uncorrected)


def test_different_seeds_are_not_paired(tmp_path: Path):
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", {"obqa": GOOD}, method="lora", seed=seed)
        write_run(tmp_path / f"b{seed}", {"obqa": BAD}, method="mosld", seed=seed + 2)
    comparison = compare(tmp_path)[0]["lora", "obqa"]
    assert (comparison.interval, comparison.p.get("items"), comparison.p["paired"]) == (None, None, None)


def test_difference_is_that_of_the_seeds_that_are_paired(tmp_path: Path):
    write_run(tmp_path / "a0", {"obqa": answers("1100")}, method="lora", seed=0)
    write_run(tmp_path / "b0", {"obqa": answers("1000")}, method="mosld", seed=0)
    write_run(tmp_path / "b1", {"obqa": answers("1111")}, method="mosld", seed=1)
    assert compare(tmp_path)[0]["lora", "obqa"].difference == pytest.approx(0.25)


@pytest.mark.parametrize("damage", ["missing", "cut", "other items", "other sum"])
def test_predictions_that_cannot_be_used_cost_only_the_test_over_items(good_and_bad: Path, damage: str):
    path = good_and_bad / "a" / "predictions" / "obqa.jsonl"
    lines = path.read_text().splitlines()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_text("\n".join(lines)[:-10])
    elif damage == "other items":
        path.write_text("\n".join(line.replace("obqa/0", "obqa/x") for line in lines))
    else:
        path.write_text("\n".join([*lines[:-1], json.dumps({"id": "obqa/49", "correct": True})]))
    comparisons, predictions = compare(good_and_bad)
    comparison = comparisons["lora", "obqa"]
    assert (comparison.p.get("items"), round(comparison.difference, 6)) == (None, 0.6)
    assert (path in predictions.problems) is (damage != "other items")


def test_no_prediction_is_read_without_resamples(good_and_bad: Path):
    for path in good_and_bad.glob("*/predictions/*"):
        path.unlink()
    comparisons, predictions = compare(good_and_bad, resamples=0)
    assert (predictions.problems, comparisons["lora", "obqa"].p.get("items")) == ({}, None)


@pytest.mark.parametrize(("prompt", "expected"), [("letter", 0.5), ("cloze", 0.25)])
def test_items_count_as_they_were_scored(tmp_path: Path, prompt: str, expected: float):
    records = [{"id": str(i), "correct": i < 2, "normalised_correct": i < 1} for i in range(4)]
    by_task = {"obqa": answers("1100" if prompt == "letter" else "1000")}
    path = write_run(tmp_path / "a", by_task, prompt=prompt)
    (path / "predictions" / "obqa.jsonl").write_text("\n".join(map(json.dumps, records)))
    (run,) = collect([str(tmp_path)]).runs
    correct = Predictions().correct(run, "obqa")
    assert correct is not None
    assert sum(correct.values()) / 4 == expected


def test_mixture_is_tested_against_its_single_runs(tmp_path: Path):
    write_run(tmp_path / "m", {"obqa": GOOD, "csqa": GOOD})
    write_run(tmp_path / "s", {"obqa": BAD}, data="single_obqa")
    mixture, single = make_blocks(collect([str(tmp_path)]))
    (comparison,) = Comparer(Predictions(), 2000).mixture_against_single(mixture, [single])
    assert (comparison.task, round(comparison.difference, 6)) == ("obqa", 0.6)
    assert significance_marks([comparison]) == {("mosld", "obqa"): "*"}


def test_mixture_is_tested_against_its_single_runs_on_average(tmp_path: Path):
    for seed in (0, 1):
        write_run(tmp_path / f"m{seed}", {"obqa": GOOD, "csqa": GOOD}, seed=seed)
        write_run(tmp_path / f"o{seed}", {"obqa": BAD}, data="single_obqa", seed=seed)
        write_run(tmp_path / f"c{seed}", {"csqa": GOOD if seed else BAD}, data="single_csqa", seed=seed)
    mixture, single = make_blocks(collect([str(tmp_path)]))
    comparisons = Comparer(Predictions(), 2000).mixture_against_single(mixture, [single])
    average = comparisons[-1]
    # obqa 60 points in both seeds, csqa 60 and 0: 60 and 30 on average.
    assert (average.task, average.shared_seeds, round(average.difference, 6)) == ("average", [0, 1], 0.45)
    assert significance_marks(comparisons)["mosld", "average"] == "*"
    assert (gains_power_note(mixture, comparisons) or "").endswith(" over 2 seeds a side; on average")
    (alone,) = Comparer(Predictions(), 2000).mixture_against_single(mixture, [single])[:1]
    assert (gains_power_note(mixture, [alone]) or "").endswith("; of one task")


def test_table_shows_every_number(good_and_bad: Path):
    comparisons, _ = compare(good_and_bad)
    table = comparison_table("title", [comparisons["lora", "obqa"]], ["facts"], 2000)
    cells = [cell.text for cell in table.rows[0]]
    assert cells[:3] == ["lora", "obqa", "+60.0"]
    # p over items is (1 + 0) / (1 + 2000), and three times that as the smallest of three.
    assert cells[4:] == ["< .001", ".001", "-", "-", "-", "-", "1", "-"]
    assert table.notes[0] == "facts"
