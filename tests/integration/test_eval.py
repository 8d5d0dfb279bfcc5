"""`mosld.eval`: by lm-evaluation-harness, and with a comparison; saved runs of every form, refusals before loading."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mosld import eval as eval_command
from mosld.evaluation.lm_eval import tasks as lm_eval_tasks
from mosld.recipes import evaluate as recipe
from tests.helpers.toy_runs import evaluation_of

pytestmark = pytest.mark.slow

METHODS = ("mosld", "full", "prefix", "moa")
TASKS = {"arc_easy": "arc_e", "openbookqa": "obqa"}
BOTH = ["evaluation.base=false", "evaluation.limit=null"]


@pytest.fixture
def lm_eval():
    """The optional dependency; the test is skipped without it."""
    return pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def margin(scores: list[float]) -> float:
    second, best = sorted(scores)[-2:]
    return best - second


@pytest.mark.usefixtures("lm_eval")
@pytest.mark.parametrize("method", METHODS)
def test_lm_eval_scores_a_run_as_we_do_item_by_item(method, trained, toy_root):
    run = trained(method)
    assert eval_command.main([f"run={run}", "prompt=cloze", *BOTH]) == 0
    assert eval_command.main([f"run={run}", *BOTH, "backend=lm_eval", f"tasks={','.join(TASKS)}"]) == 0
    ours, theirs = evaluation_of(run, "mixture", "cloze"), run / "eval" / "lm_eval-arc_easy+openbookqa"
    for name, task in TASKS.items():
        predictions = lines(ours / "predictions" / f"{task}.jsonl"), lines(theirs / "predictions" / f"{name}.jsonl")
        assert len(predictions[0]) == 20
        choices = {row["id"]: row["choices"] for row in lines(toy_root / task / "test.jsonl")}
        for mine, other in zip(*predictions, strict=True):
            scores = mine.pop("scores")
            # The bound of tests/unit/evaluation/test_lm_eval.py, and no item that is tied within it.
            assert scores == pytest.approx(other.pop("scores"), abs=2e-4)
            per_character = [score / len(choice) for score, choice in zip(scores, choices[mine["id"]], strict=True)]
            assert min(margin(scores), margin(per_character)) > 4e-4
            assert mine == other
    mine, other = (json.loads((directory / "results.json").read_text()) for directory in (ours, theirs))
    for name, task in TASKS.items():
        assert other["scores"][name] == pytest.approx(mine["scores"][task])
    assert other["average"] == pytest.approx(mine["average"])
    assert {key for key in mine if key not in other} <= {"routing_accuracy"}
    assert (other["status"], other["data"]["source"], other["backend"]) == ("finished", "local", "lm_eval")


@pytest.mark.usefixtures("lm_eval")
@pytest.mark.parametrize(("method", "folder"), [("mosld", "adapter"), ("full", "model")])
def test_a_bare_adapter_or_model_directory_is_scored_and_its_evaluation_printed(method, folder, trained, capsys):
    directory = trained(method) / folder
    assert eval_command.main([f"run={directory}", "backend=lm_eval", "tasks=arc_easy", "evaluation.limit=3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(directory / "eval" / "lm_eval-arc_easy")
    assert len(lines(directory / "eval" / "lm_eval-arc_easy" / "predictions" / "arc_easy.jsonl")) == 3


@pytest.mark.usefixtures("lm_eval")
def test_generated_answers_of_lm_eval_are_recorded_without_their_text(trained, mixed_root):
    command = [f"run={trained('mosld')}", "backend=lm_eval", "tasks=gsm8k", "source=local", f"source.root={mixed_root}"]
    assert eval_command.main([*command, "evaluation.limit=2"]) == 0
    directory = trained("mosld") / "eval" / "lm_eval-gsm8k"
    records = lines(directory / "predictions" / "gsm8k.jsonl")
    assert [sorted(line) for line in records] == [["correct", "exact_match", "flexible", "id", "strict"]] * 2
    results = json.loads((directory / "results.json").read_text())
    assert results["scores"]["gsm8k"]["n"] == 2
    assert "exact_match,flexible-extract" in results["lm_eval"]["results"]["gsm8k"]


@pytest.mark.usefixtures("lm_eval")
def test_mmlu_is_one_task_of_lm_eval_on_our_items(trained, capsys):
    run = trained("mosld")
    options = [f"run={run}", "source=bundled", "evaluation.limit=12", "evaluation.base=false", "evaluation.shots=1"]
    assert eval_command.main([*options, "data=mmlu", "prompt=letter"]) == 0
    assert eval_command.main([*options, "backend=lm_eval", "tasks=mmlu"]) == 0
    ours, theirs = evaluation_of(run, "mmlu", "letter-1shot"), run / "eval" / "lm_eval-mmlu-1shot"
    ids = [sorted(line["id"] for line in lines(path / "predictions" / "mmlu.jsonl")) for path in (ours, theirs)]
    assert ids[0] == ids[1]
    results = json.loads((theirs / "results.json").read_text())
    score = results["scores"]["mmlu"]
    assert (score["n"], results["shots"], results["average"]) == (12, 1, score["accuracy"])
    assert score["accuracy"] == pytest.approx(results["lm_eval"]["results"]["mmlu"]["acc,none"])
    assert set(score["by_category"]) <= {"STEM", "humanities", "social sciences", "other"}
    assert "  STEM" in capsys.readouterr().out


@pytest.mark.usefixtures("lm_eval")
def test_one_subject_of_mmlu_is_a_task_by_itself(trained):
    run = trained("mosld")
    command = [f"run={run}", "source=bundled", "backend=lm_eval", "tasks=mmlu_astronomy", "evaluation.limit=3"]
    assert eval_command.main(command) == 0
    records = lines(run / "eval" / "lm_eval-mmlu_astronomy" / "predictions" / "mmlu_astronomy.jsonl")
    assert [line["id"].split("/")[0] for line in records] == ["astronomy"] * 3


@pytest.mark.usefixtures("lm_eval")
def test_rows_that_do_not_fit_a_task_file_are_rejected(trained, tmp_path, capsys):
    (tmp_path / "mmlu").mkdir()
    row = {"id": "anatomy/test/0", "question": "Which?", "choices": ["a", "b", "c"], "answer": 0}
    (tmp_path / "mmlu" / "test.jsonl").write_text(json.dumps(row) + "\n")
    command = [f"run={trained('mosld')}", "backend=lm_eval", "source=local", f"source.root={tmp_path}"]
    assert eval_command.main([*command, "tasks=mmlu"]) == 2
    assert "1 rows do not have 4 choices, the first: anatomy/test/0" in capsys.readouterr().err
    assert eval_command.main([*command, "tasks=mmlu_virology"]) == 2
    assert "no rows of that subject; Valid: mmlu_anatomy." in capsys.readouterr().err


REJECTED = {
    "misspelt task": (["tasks=arc_esy"], "did you mean 'arc_easy'"),
    "our name of a task": (["tasks=arc_e"], "did you mean 'arc_easy'"),
    "task without local rows": (["tasks=hellaswag"], "With source=hub lm-eval downloads its own rows"),
    "task unknown to lm-eval": (["source=hub", "tasks=helaswag"], "did you mean 'hellaswag'"),
    "no task": ([], "backend=lm_eval needs lm-eval's names"),
    "missing rows": (["tasks=arc_challenge"], "lacks arc_c"),
    "comparison": (["tasks=arc_easy", "compare=model.dtype=bfloat16"], "is for own scoring"),
    "wrong override": (["tasks=arc_easy", "evaluation.limt=3"], "did you mean 'evaluation.limit'"),
}


@pytest.mark.usefixtures("lm_eval")
@pytest.mark.parametrize("mistake", REJECTED)
def test_a_mistake_is_rejected_before_a_model_loads(mistake, trained, capsys, monkeypatch):
    run = trained("mosld")
    monkeypatch.setattr("mosld.recipes.lm_eval.load_trained", lambda *_: pytest.fail("a model was loaded"))
    arguments, message = REJECTED[mistake]
    assert eval_command.main([f"run={run}", "backend=lm_eval", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    # Not all of lm-eval's thousands of names.
    assert len(error) < 500


def test_lm_eval_in_several_processes_is_rejected_before_anything_is_read():
    """As torchrun starts them: each would score everything, and all would write the same files."""
    for rank in "01":
        shared = {
            **os.environ,
            "WORLD_SIZE": "2",
            "RANK": rank,
            "LOCAL_RANK": rank,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29500",
        }
        command = [sys.executable, "-m", "mosld.eval", "run=outputs/some/run", "backend=lm_eval", "tasks=arc_easy"]
        done = subprocess.run(command, env=shared, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert "the harness scores in one process" in done.stderr
        assert "Traceback" not in done.stderr


def test_without_lm_eval_the_message_says_how_to_install_it(trained, capsys, monkeypatch):
    run = trained("mosld")
    monkeypatch.setattr(lm_eval_tasks, "find_spec", lambda _: None)
    assert eval_command.main([f"run={run}", "backend=lm_eval", "tasks=arc_easy"]) == 2
    assert "pip install 'mosld[lm-eval]'" in capsys.readouterr().err


def test_our_scoring_imports_neither_evaluate_nor_datasets_nor_lm_eval():
    command = "import sys, mosld.recipes.evaluate; print({'evaluate', 'datasets', 'lm_eval'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("backend=lm_evl", "backend=lm_evl: unknown value; did you mean 'lm_eval'"),
        ("tasks=arc_easy", "tasks: are the harness's"),
        ("compare=seed=1", "compare=seed=1: give model.dtype or"),
        ("compare=model.dtype=float31", "model.dtype=float31: unknown value"),
    ],
)
def test_a_wrong_argument_is_rejected(argument, message, trained, capsys):
    assert eval_command.main([f"run={trained('mosld')}", argument]) == 2
    assert message in capsys.readouterr().err


def test_two_batch_sizes_differ_in_no_item_in_fp32(trained, capsys):
    command = [f"run={trained('mosld')}", *BOTH, "evaluation.batch_tokens=64"]
    assert eval_command.main([*command, "compare=evaluation.batch_tokens=4096"]) == 0
    assert "0 of 40 items are answered differently" in capsys.readouterr().out
    directory = evaluation_of(trained("mosld"), "mixture")
    assert lines(directory / "differences.jsonl") == []
    # No item is nearly tied: in fp32 the scores of these options, of two tokens each, have errors of about 3e-6.
    records = [record for task in TASKS.values() for record in lines(directory / "predictions" / f"{task}.jsonl")]
    assert min(margin(record["scores"]) for record in records) > 1e-4
    assert json.loads((directory / "results.json").read_text())["differing"] == 0


def test_items_that_differ_are_listed_with_their_margins(trained, capsys, monkeypatch):
    load_trained = recipe.load_trained

    def load_with_other_head(config, run, console):
        """The model, with the opposite logits in bfloat16, so that items do differ."""
        model, tokenizer = load_trained(config, run, console)
        if config.dtype == "bfloat16":
            model.get_base_model().lm_head.weight.data.neg_()
        return model, tokenizer

    monkeypatch.setattr(recipe, "load_trained", load_with_other_head)
    command = [f"run={trained('mosld')}", *BOTH, "prompt=cloze", "compare=model.dtype=bfloat16"]
    assert eval_command.main(command) == 0
    listed = lines(evaluation_of(trained("mosld"), "mixture", "cloze") / "differences.jsonl")
    assert listed
    assert all(one["margin"] > 0 and one["other_margin"] > 0 and one["prediction"] != one["other"] for one in listed)
    assert f"{len(listed)} of 40 items are answered differently" in capsys.readouterr().out
