"""A whole run of every method by the commands a user types: train, results, the scores again by eval, routing.json."""

import json
from pathlib import Path

import pytest

from mosld import eval as eval_command
from mosld import inspect as inspect_command
from mosld import plan as plan_command
from tests.helpers.methods import BY_NAME
from tests.helpers.methods import ROUTED as ROUTED_ROWS
from tests.helpers.toy_runs import evaluation_of, short_run

pytestmark = pytest.mark.slow

ROUTED = [row.name for row in ROUTED_ROWS]


@pytest.fixture(scope="module", params=BY_NAME)
def finished(request, trained) -> Path:
    return trained(request.param)


@pytest.fixture(scope="module")
def evaluated(finished) -> Path:
    """What eval makes of the run: here, as another process of the tests may have the other tests."""
    assert eval_command.main([f"run={finished}", "evaluation.base=true"]) == 0
    return evaluation_of(finished, "mixture")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_eval_gives_the_same_scores_and_parameters_from_the_directory_alone(finished, evaluated):
    before, after = read(finished / "results.json"), read(evaluated / "results.json")
    assert after["scores"] == before["scores"]
    assert after["base_scores"] == before["base_scores"]
    assert after["parameters"] == before["parameters"]
    for task in ("obqa", "arc_e"):
        again = (evaluated / "predictions" / f"{task}.jsonl").read_bytes()
        assert again == (finished / "predictions" / f"{task}.jsonl").read_bytes()


def test_the_run_trained_something(finished):
    scores = [
        [json.loads(line)["scores"] for line in (finished / "predictions" / part).read_text().splitlines()]
        for part in ("obqa.jsonl", "base/obqa.jsonl")
    ]
    assert scores[0] != scores[1]


def test_plan_counts_the_parameters_that_train_counts(finished, toy_root, capsys):
    trained = read(finished / "results.json")["parameters"]
    capsys.readouterr()
    assert plan_command.main([*short_run(finished.name, toy_root, finished), "json=true"]) == 0
    planned = json.loads(capsys.readouterr().out)["parameters"]
    assert {key: planned[key] for key in trained} == trained


def test_what_was_trained_has_a_card_that_says_how_to_load_it(finished):
    folder = finished / ("model" if finished.name == "full" else "adapter")
    card = (folder / "README.md").read_text()
    assert "| obqa |" in card
    assert ("PeftModel" in card) == (finished.name != "full")
    assert ("import mosld.adapters" in card) == (finished.name in ROUTED)


def test_routing_json_says_which_experts_each_task_used(finished, evaluated):
    for place in (finished, evaluated):
        if finished.name not in ROUTED:
            assert not (place / "routing.json").exists()
            continue
        table = read(place / "routing.json")
        assert sorted(table) == ["arc_e", "obqa"]
        for modules in table.values():
            assert len({name.split(".")[2] for name in modules}) == 4  # layers
            for entry in modules.values():
                assert len(entry["share"]) == len(entry["weight"])
                assert entry["tokens"] > 0
                assert 0 <= entry["entropy"] <= 1
                assert entry["dropped"] == 0


def test_inspect_says_what_every_mixture_holds_and_why_the_others_hold_nothing(finished, capsys):
    code = inspect_command.main([str(finished)])
    if finished.name not in ROUTED:
        assert code == 2
        assert f"({finished.name})" in capsys.readouterr().err
        return
    assert code == 0
    (run,) = read(finished / "inspect" / "inspect.json")["runs"]
    assert len({module["layer"] for module in run["modules"].values()}) == 4
    assert all(run["use"][task].keys() == run["specialisation"].keys() for task in ("obqa", "arc_e"))
    values = [value for module in run["modules"].values() for value in module["similarity"].values()]
    assert values
    assert all(-1 <= value <= 1 for value in values if value is not None)
    assert {path.name for path in (finished / "inspect").glob("*.png")} == {
        "similarity.png", "specialisation.png", "tasks.png", "use.png"
    }  # fmt: skip


def test_metrics_say_of_sira_alone_what_found_no_room_in_training(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "expert_load" in line]
    assert steps
    for line in steps:
        assert ("dropped" in line) == (finished.name == "sira")
        if finished.name == "sira":
            assert line["dropped"].keys() == line["expert_load"].keys()
            assert all(0 <= share < 1 for share in line["dropped"].values())
