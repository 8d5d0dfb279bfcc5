"""`mosld.eval` by lm-evaluation-harness and twice over: saved runs of every form, equal items, files, refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mosld import eval as eval_command
from mosld import train as train_command
from mosld.evaluation.lm_eval import tasks as harness_tasks

METHODS = ("mosld", "full", "prefix", "moa")
TASKS = {"arc_easy": "arc_e", "openbookqa": "obqa"}


@pytest.fixture(scope="module")
def trained(toy_root, tmp_path_factory):
    """A finished run of a method, made on first use."""
    made: dict[str, Path] = {}

    def run(method: str) -> Path:
        if method not in made:
            made[method] = tmp_path_factory.mktemp("harness") / method
            command = [
                f"method={method}", "model=tiny", "model.dtype=float32", "data.tasks=[obqa,arc_e]", "source=local",
                f"source.root={toy_root}", "debug=fast", "logger=files", f"output_dir={made[method]}",
            ]  # fmt: skip
            assert train_command.main(command) == 0
        return made[method]

    return run


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_the_harness_says_of_a_run_what_own_scoring_says_item_by_item(method, trained):
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")
    run = trained(method)
    everything = ["prompt=cloze", "evaluation.base=false", "evaluation.limit=null"]
    assert eval_command.main([f"run={run}", *everything]) == 0
    assert eval_command.main([f"run={run}", *everything, "backend=lm_eval", f"tasks={','.join(TASKS)}"]) == 0
    own, theirs = run / "eval" / "mixture-cloze", run / "eval" / "lm_eval-arc_easy+openbookqa"
    for name, task in TASKS.items():
        pairs = list(
            zip(
                lines(own / "predictions" / f"{task}.jsonl"),
                lines(theirs / "predictions" / f"{name}.jsonl"),
                strict=True,
            )
        )
        assert len(pairs) == 20
        for mine, other in pairs:
            assert mine.pop("scores") == pytest.approx(other.pop("scores"), abs=2e-4)
            assert mine == other
    mine, other = (json.loads((place / "results.json").read_text()) for place in (own, theirs))
    for name, task in TASKS.items():
        assert other["scores"][name] == pytest.approx(mine["scores"][task])
    assert other["average"] == pytest.approx(mine["average"])
    assert {key for key in mine if key not in other} <= {"routing_accuracy"}
    assert (other["status"], other["data"]["source"], other["backend"]) == ("finished", "local", "lm_eval")


@pytest.mark.parametrize(("method", "part"), [("mosld", "adapter"), ("full", "model")])
def test_the_harness_takes_a_bare_adapter_or_model_directory(method, part, trained, capsys):
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")
    place = trained(method) / part
    assert eval_command.main([f"run={place}", "backend=lm_eval", "tasks=arc_easy", "evaluation.limit=3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(place / "eval" / "lm_eval-arc_easy")
    assert len(lines(place / "eval" / "lm_eval-arc_easy" / "predictions" / "arc_easy.jsonl")) == 3


def test_generated_answers_of_the_harness_are_kept_without_their_text(trained, mixed_root):
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")
    run = trained("mosld")
    command = [f"run={run}", "backend=lm_eval", "tasks=gsm8k", "source=local", f"source.root={mixed_root}"]
    assert eval_command.main([*command, "evaluation.limit=2"]) == 0
    target = run / "eval" / "lm_eval-gsm8k"
    assert [sorted(line) for line in lines(target / "predictions" / "gsm8k.jsonl")] == [
        ["correct", "exact_match", "id"]
    ] * 2
    results = json.loads((target / "results.json").read_text())
    assert results["scores"]["gsm8k"]["n"] == 2
    assert "exact_match,flexible-extract" in results["lm_eval"]["results"]["gsm8k"]


def test_mmlu_is_one_task_of_the_harness_on_the_items_of_own_scoring(trained, capsys):
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")
    run = trained("mosld")
    asked = [f"run={run}", "source=bundled", "evaluation.limit=12", "evaluation.base=false", "evaluation.shots=1"]
    assert eval_command.main([*asked, "data=mmlu", "prompt=letter"]) == 0
    assert eval_command.main([*asked, "backend=lm_eval", "tasks=mmlu"]) == 0
    own, theirs = run / "eval" / "mmlu-letter-1shot", run / "eval" / "lm_eval-mmlu-1shot"
    both = [sorted(line["id"] for line in lines(place / "predictions" / "mmlu.jsonl")) for place in (own, theirs)]
    assert both[0] == both[1]
    results = json.loads((theirs / "results.json").read_text())
    score = results["scores"]["mmlu"]
    assert (score["n"], results["shots"], results["average"]) == (12, 1, score["accuracy"])
    assert score["accuracy"] == pytest.approx(results["lm_eval"]["results"]["mmlu"]["acc,none"])
    assert set(score["by_category"]) <= {"STEM", "humanities", "social sciences", "other"}
    assert "  STEM" in capsys.readouterr().out


def test_one_subject_of_mmlu_is_a_task_by_itself(trained):
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")
    run = trained("mosld")
    command = [f"run={run}", "source=bundled", "backend=lm_eval", "tasks=mmlu_astronomy", "evaluation.limit=3"]
    assert eval_command.main(command) == 0
    found = lines(run / "eval" / "lm_eval-mmlu_astronomy" / "predictions" / "mmlu_astronomy.jsonl")
    assert [line["id"].split("/")[0] for line in found] == ["astronomy"] * 3


def test_rows_that_a_task_file_cannot_take_are_refused(trained, tmp_path, capsys):
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")
    (tmp_path / "mmlu").mkdir()
    row = {"id": "anatomy/test/0", "question": "Which?", "choices": ["a", "b", "c"], "answer": 0}
    (tmp_path / "mmlu" / "test.jsonl").write_text(json.dumps(row) + "\n")
    command = [f"run={trained('mosld')}", "backend=lm_eval", "source=local", f"source.root={tmp_path}"]
    assert eval_command.main([*command, "tasks=mmlu"]) == 2
    assert "1 rows have not 4 choices, the first: anatomy/test/0" in capsys.readouterr().err
    assert eval_command.main([*command, "tasks=mmlu_virology"]) == 2
    assert "no rows of that subject; Valid: mmlu_anatomy." in capsys.readouterr().err


REFUSED = {
    "a task that is misspelt": (["tasks=arc_esy"], "did you mean 'arc_easy'"),
    "a task by its name here": (["tasks=arc_e"], "did you mean 'arc_easy'"),
    "a task without own rows": (["tasks=hellaswag"], "With source=hub the harness fetches its own rows"),
    "no task": ([], "backend=lm_eval needs the harness's names"),
    "rows that are not there": (["tasks=arc_challenge"], "lacks arc_c"),
    "comparing": (["tasks=arc_easy", "compare=model.dtype=bfloat16"], "is for own scoring"),
    "a wrong override beside it": (["tasks=arc_easy", "evaluation.limt=3"], "did you mean 'evaluation.limit'"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refused_before_a_model_loads(why, trained, capsys, monkeypatch):
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")
    run = trained("mosld")
    monkeypatch.setattr("mosld.recipes.evaluate.load_trained", lambda *_: pytest.fail("a model was loaded"))
    given, said = REFUSED[why]
    assert eval_command.main([f"run={run}", "backend=lm_eval", *given]) == 2
    assert said in capsys.readouterr().err


def test_a_task_of_no_one_is_refused_with_the_nearest_of_the_harness(capsys, trained):
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")
    assert eval_command.main([f"run={trained('mosld')}", "source=hub", "backend=lm_eval", "tasks=helaswag"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'hellaswag'" in said
    assert len(said) < 500  # not all of its thousands of names


def test_several_processes_are_refused_on_each_before_anything_is_read():
    """As torchrun starts them: each would score everything, and all would write the same files."""
    for rank in "01":
        shared = {**os.environ, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
        command = [sys.executable, "-m", "mosld.eval", "run=outputs/some/run", "backend=lm_eval", "tasks=arc_easy"]
        done = subprocess.run(command, env=shared, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert "the harness scores in one process" in done.stderr
        assert "Traceback" not in done.stderr


def test_without_the_harness_the_message_says_how_to_install_it(trained, capsys, monkeypatch):
    run = trained("mosld")
    monkeypatch.setattr(harness_tasks, "find_spec", lambda _: None)
    assert eval_command.main([f"run={run}", "backend=lm_eval", "tasks=arc_easy"]) == 2
    assert "pip install 'mosld[lm-eval]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["backend=lm_evl"], "backend=lm_evl: unknown value; did you mean 'lm_eval'"),
        (["tasks=arc_easy"], "tasks: are the harness's"),
        (["compare=seed=1"], "compare=seed=1: give model.dtype or"),
        (["compare=model.dtype=float31"], "model.dtype=float31: unknown value"),
    ],
)
def test_own_arguments_are_checked(given, said, trained, capsys):
    assert eval_command.main([f"run={trained('mosld')}", *given]) == 2
    assert said in capsys.readouterr().err


def test_two_batch_sizes_differ_in_no_item_in_fp32(trained, capsys):
    command = [f"run={trained('mosld')}", "evaluation.base=false", "evaluation.limit=null"]
    assert eval_command.main([*command, "evaluation.batch_tokens=64", "compare=evaluation.batch_tokens=4096"]) == 0
    assert "0 of 40 items are answered otherwise" in capsys.readouterr().out
    target = trained("mosld") / "eval" / "mixture-letter"
    assert lines(target / "differences.jsonl") == []
    assert json.loads((target / "results.json").read_text())["differing"] == 0


def test_items_that_differ_are_listed_with_their_margins(trained, capsys, monkeypatch):
    scoring = sys.modules["mosld.recipes.evaluate"]
    real = scoring.load_trained

    def other(config, run, console):
        """The model, with another head where bfloat16 is asked for, so that items do differ."""
        model, tokenizer = real(config, run, console)
        if config.model.dtype == "bfloat16":
            model.get_base_model().lm_head.weight.data.neg_()
        return model, tokenizer

    monkeypatch.setattr(scoring, "load_trained", other)
    command = [f"run={trained('mosld')}", "evaluation.base=false", "evaluation.limit=null", "prompt=cloze"]
    assert eval_command.main([*command, "compare=model.dtype=bfloat16"]) == 0
    found = lines(trained("mosld") / "eval" / "mixture-cloze" / "differences.jsonl")
    assert found
    assert all(one["margin"] > 0 and one["other_margin"] > 0 and one["prediction"] != one["other"] for one in found)
    assert f"{len(found)} of 40 items are answered otherwise" in capsys.readouterr().out
