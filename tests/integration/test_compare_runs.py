"""`mosld.eval RUN1 RUN2`: one table of differences, paired by item."""

import json

import pytest

from mosld import eval as eval_command
from mosld import train as train_command
from mosld.recipes.compare import compare, shared_tasks
from mosld.recipes.evaluate import EvaluationResult
from mosld.recipes.request import check_evaluation
from tests.helpers.cases import command
from tests.helpers.toy_runs import evaluation_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of two runs on the same rows."""
    folder = tmp_path_factory.mktemp("compare")
    for name, more in (("first", ()), ("second", ("training.learning_rate=0.05",))):
        assert train_command.main(command(folder, *more, f"output_dir={folder / name}", steps=4)) == 0
    return folder


def correct(evaluation, task) -> dict[str, bool]:
    lines = (evaluation / "predictions" / f"{task}.jsonl").read_text().splitlines()
    return {record["id"]: record["correct"] for record in map(json.loads, lines)}


def test_the_table_has_the_differences_of_the_predictions(runs, capsys):
    first, second = runs / "first", runs / "second"
    assert eval_command.main([str(first), f"run={second}", "evaluation.limit=6"]) == 0
    out = capsys.readouterr().out
    places = [evaluation_of(run) for run in (first, second)]
    assert out.splitlines()[-2:] == [str(place) for place in places]
    results = [EvaluationResult(place, json.loads((place / "results.json").read_text())) for place in places]
    comparisons = {one.task: one for one in compare(["a", "a"], results, ["obqa", "arc_e"])}
    assert list(comparisons) == ["obqa", "arc_e", "average"]
    means = []
    for task in ("obqa", "arc_e"):
        before, after = (correct(place, task) for place in places)
        assert before.keys() == after.keys()
        means.append(sum(after[item] - before[item] for item in before) / len(before))
        assert comparisons[task].difference == pytest.approx(means[-1])
        low, high = comparisons[task].interval
        assert low <= means[-1] <= high
        assert f"{100 * means[-1]:+.1f}" in out
    assert comparisons["average"].difference == pytest.approx(sum(means) / 2)
    assert {one.name for one in comparisons.values()} == {"mosld (a (2))"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}", "{0}"], "first: is named twice"),
        (["{0}", "{1}", "compare=model.dtype=float32"], "compare=model.dtype=float32: is for one run"),
        (["{0}", "{1}", "--output", "x"], "is for one run"),
        (["{0}", "{1}", "backend=lm_eval", "tasks=arc_easy"], "backend=lm_eval: is for one run"),
        (["{0}", "nowhere"], "run=nowhere: no such directory"),
        (["{0}", "{1}", "seed=1"], "seed=1: is fixed by the run"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, message, runs, capsys):
    assert eval_command.main([text.format(runs / "first", runs / "second") for text in arguments]) == 2
    assert message in capsys.readouterr().err


def test_only_tasks_with_the_same_rows_are_compared(runs):
    both = check_evaluation(str(runs / "first"), [])
    one = check_evaluation(str(runs / "second"), ["data.tasks=[arc_e]"])
    assert shared_tasks([both, one]) == ["arc_e"]
    other = check_evaluation(str(runs / "second"), ["data.tasks=[csqa]", "source=bundled"])
    with pytest.raises(ValueError, match="would not be asked the same items"):
        shared_tasks([both, other])
    fewer = check_evaluation(str(runs / "second"), ["evaluation.limit=2"])
    with pytest.raises(ValueError, match="would not be asked the same items"):
        shared_tasks([both, fewer])
