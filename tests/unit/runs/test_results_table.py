"""The table at the end of a run, and that of a sweep, with what they say of differences that could be shown."""

import pytest

from mosld.runs.console import Console
from mosld.runs.tables import results_table
from mosld.sweeps.summary import summary_table
from tests.helpers.result_trees import answers, results

SOLUTIONS = {"accuracy": 0.5, "stderr": 0.05, "n": 100, "strict": 0.25, "stderr_strict": 0.04, "flexible": 0.75,
             "stderr_flexible": 0.04}  # fmt: skip
OLD = {"accuracy": 0.5, "stderr": 0.05, "n": 100}


def lines(capsys, renderable) -> list[str]:
    Console().show(renderable)
    return [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("base", "rows"),
    [
        (None, ["gsm8k 100 50.0 ± 5.0", "strict 100 25.0 ± 4.0", "flexible 100 75.0 ± 4.0"]),
        (
            {**SOLUTIONS, "strict": 0.125},
            ["gsm8k 100 50.0 ± 5.0 50.0 ± 5.0 +0.0", "strict 100 12.5 ± 4.0 25.0 ± 4.0 +12.5",
             "flexible 100 75.0 ± 4.0 75.0 ± 4.0 +0.0"],
        ),
    ],
)  # fmt: skip
def test_solutions_have_the_scores_of_lm_evaluation_harness_below_their_own(base, rows, capsys):
    bases = {"base_scores": {"gsm8k": base}, "base_average": 0.5} if base else {}
    tree = results({"gsm8k": answers("10")}, scores={"gsm8k": SOLUTIONS}, average=0.5, **bases)
    shown = lines(capsys, results_table(tree))
    at = shown.index(rows[0])
    assert shown[at : at + 3] == rows


def test_results_of_an_older_version_are_shown(capsys):
    tree = results({"gsm8k": answers("10")}, scores={"gsm8k": OLD}, average=0.5)
    shown = lines(capsys, results_table(tree))
    assert "gsm8k 100 50.0 ± 5.0" in shown
    assert not [line for line in shown if line.startswith("strict")]
    # 2.8016 sqrt(2 / 4 / 100).
    assert "gsm8k 19.8 points over items" in " ".join(shown)


def test_table_of_a_sweep_says_what_the_items_of_its_jobs_could_show(capsys):
    job = {
        "overrides": [],
        "status": "finished",
        "validation_average": 0.5,
        "average": 0.5,
        "seconds": 1.0,
        "error": None,
    }
    jobs = [{**job, "job": 1, "smallest_difference": 0.08}, {**job, "job": 2, "smallest_difference": 0.1},
            {**job, "job": 3}]  # fmt: skip
    shown = lines(capsys, summary_table({"name": "s", "finished": 3, "best": 1, "jobs": jobs}))
    assert "test average 10.0 points over items" in " ".join(shown)
