"""Comparisons of rows: paired by item and seed, corrected over a table, honest about what cannot be compared."""

import json
from pathlib import Path

import pytest
from scipy import stats

from mosld.reporting.blocks import Block, make_blocks
from mosld.reporting.collect import collect
from mosld.reporting.compare import Comparer, Outcomes, comparison_table, marks
from mosld.reporting.significance import holm
from tests.helpers.result_trees import right, write_run

GOOD, BAD = right("1" * 45 + "0" * 5), right("1" * 15 + "0" * 35)


def block(folder: Path) -> Block:
    (found,) = make_blocks(collect([str(folder)]))
    return found


def compared(folder: Path, resamples: int = 2000):
    """Every row against mosld, by (name, task), and the comparer."""
    own = block(folder)
    comparer = Comparer(Outcomes(), resamples)
    other = next(row for row in own.rows if row.run.method == "mosld")
    found = comparer.against(own, [row for row in own.rows if row is not other], other)
    return {(one.name, one.task): one for one in found}, comparer


def three_seeds(folder: Path) -> None:
    for seed, (ours, theirs) in enumerate([("1110", "1000"), ("1111", "1000"), ("1101", "1100")]):
        write_run(folder / f"a{seed}", {"obqa": right(ours), "csqa": right("11")}, method="lora", seed=seed)
        write_run(folder / f"b{seed}", {"obqa": right(theirs), "csqa": right("11")}, method="mosld", seed=seed)


def test_accuracies_are_tested_as_by_scipy(tmp_path: Path):
    three_seeds(tmp_path)
    found, _ = compared(tmp_path)
    ours, theirs = [0.75, 1.0, 0.75], [0.25, 0.25, 0.5]
    one = found["lora", "obqa"]
    assert one.p["paired"] == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert one.p["welch"] == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)
    assert one.difference == pytest.approx(0.5)


def test_items_are_paired_and_averaged_over_seeds(tmp_path: Path):
    three_seeds(tmp_path)
    own = block(tmp_path)
    lora, mosld = own.rows
    found = Outcomes().differences(lora.runs["obqa"], mosld.runs["obqa"], "obqa")
    # Item by item over the seeds: 0+0+0, 1+1+0, 1+1+0, 0+1+1, each of three.
    assert found is not None
    assert found.tolist() == pytest.approx([0, 2 / 3, 2 / 3, 2 / 3])


def test_a_clear_difference_is_starred_and_none_is_not(tmp_path: Path):
    write_run(tmp_path / "a", {"obqa": GOOD, "csqa": GOOD}, method="lora")
    write_run(tmp_path / "b", {"obqa": BAD, "csqa": GOOD}, method="mosld")
    found, _ = compared(tmp_path)
    assert set(marks(list(found.values()))) == {("lora", "obqa"), ("lora", "average")}


def test_the_average_is_that_of_the_tasks(tmp_path: Path):
    write_run(tmp_path / "a", {"obqa": GOOD, "csqa": GOOD}, method="lora")
    write_run(tmp_path / "b", {"obqa": BAD, "csqa": GOOD}, method="mosld")
    one = compared(tmp_path)[0]["lora", "average"]
    assert one.low is not None
    assert one.high is not None
    assert (one.difference, one.low < 0.3 < one.high) == (pytest.approx(0.3), True)


def test_holms_correction_is_over_the_whole_table(tmp_path: Path):
    write_run(tmp_path / "m", {"obqa": GOOD, "csqa": GOOD}, method="mosld")
    for method in ("lora", "mola"):
        write_run(tmp_path / method, {"obqa": right("10" * 25), "csqa": GOOD}, method=method)
    comparisons = list(compared(tmp_path)[0].values())
    raw = [one.p["items"] for one in comparisons]
    assert len(raw) == 6
    assert [one.corrected["items"] for one in comparisons] == holm(raw)


def test_seeds_that_do_not_meet_are_not_paired(tmp_path: Path):
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", {"obqa": GOOD}, method="lora", seed=seed)
        write_run(tmp_path / f"b{seed}", {"obqa": BAD}, method="mosld", seed=seed + 2)
    one = compared(tmp_path)[0]["lora", "obqa"]
    assert (one.low, one.p.get("items"), one.p["paired"], one.shared) == (None, None, None, [])


def test_the_difference_is_that_of_the_seeds_that_are_paired(tmp_path: Path):
    write_run(tmp_path / "a0", {"obqa": right("1100")}, method="lora", seed=0)
    write_run(tmp_path / "b0", {"obqa": right("1000")}, method="mosld", seed=0)
    write_run(tmp_path / "b1", {"obqa": right("1111")}, method="mosld", seed=1)
    assert compared(tmp_path)[0]["lora", "obqa"].difference == pytest.approx(0.25)


@pytest.mark.parametrize("damage", ["missing", "cut", "other items", "other sum"])
def test_predictions_that_cannot_be_used_cost_the_test_over_items_alone(tmp_path: Path, damage: str):
    write_run(tmp_path / "a", {"obqa": GOOD}, method="lora")
    write_run(tmp_path / "b", {"obqa": BAD}, method="mosld")
    path = tmp_path / "a" / "predictions" / "obqa.jsonl"
    lines = path.read_text().splitlines()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_text("\n".join(lines)[:-10])
    elif damage == "other items":
        path.write_text("\n".join(line.replace("obqa/0", "obqa/x") for line in lines))
    else:
        path.write_text("\n".join([*lines[:-1], json.dumps({"id": "obqa/49", "correct": True})]))
    found, comparer = compared(tmp_path)
    one = found["lora", "obqa"]
    assert (one.p.get("items"), round(one.difference, 6)) == (None, 0.6)
    assert (path in comparer.outcomes.faults) is (damage != "other items")


def test_without_resamples_no_prediction_is_read(tmp_path: Path):
    write_run(tmp_path / "a", {"obqa": GOOD}, method="lora")
    write_run(tmp_path / "b", {"obqa": BAD}, method="mosld")
    for path in tmp_path.glob("*/predictions/*"):
        path.unlink()
    found, comparer = compared(tmp_path, resamples=0)
    assert (comparer.outcomes.faults, found["lora", "obqa"].p.get("items")) == ({}, None)


@pytest.mark.parametrize(("prompt", "expected"), [("letter", 0.5), ("cloze", 0.25)])
def test_items_count_as_they_were_scored(tmp_path: Path, prompt: str, expected: float):
    records = [{"id": str(i), "correct": i < 2, "normalised_correct": i < 1} for i in range(4)]
    outcomes = right("1100" if prompt == "letter" else "1000")
    path = write_run(tmp_path / "a", {"obqa": outcomes}, prompt=prompt)
    (path / "predictions" / "obqa.jsonl").write_text("\n".join(map(json.dumps, records)))
    (run,) = collect([str(tmp_path)]).runs
    found = Outcomes().of(run, "obqa")
    assert found is not None
    assert sum(found.values()) / 4 == expected


def test_a_mixture_is_tested_against_its_single_runs(tmp_path: Path):
    write_run(tmp_path / "m", {"obqa": GOOD, "csqa": GOOD})
    write_run(tmp_path / "s", {"obqa": BAD}, data="single_obqa")
    mixture, alone = make_blocks(collect([str(tmp_path)]))
    (one,) = Comparer(Outcomes(), 2000).mixture_against_single(mixture, [alone])
    assert (one.task, round(one.difference, 6), marks([one])) == ("obqa", 0.6, {("mosld", "obqa"): "*"})


def test_the_table_shows_every_number(tmp_path: Path):
    write_run(tmp_path / "a", {"obqa": GOOD}, method="lora")
    write_run(tmp_path / "b", {"obqa": BAD}, method="mosld")
    table = comparison_table("title", list(compared(tmp_path)[0].values()), ["facts"], 2000)
    cells = [cell.text for cell in table.rows[0]]
    assert (cells[:3], cells[4:], table.notes[0]) == (
        ["lora", "obqa", "+60.0"],
        ["< .001", "< .001", "-", "-", "-", "-", "1"],
        "facts",
    )
