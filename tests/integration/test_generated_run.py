"""Whole runs with a task whose answers are generated: one table, eval again, every prompt format, what is logged."""

import json
from pathlib import Path

import pytest

from mosld import eval as eval_command
from mosld import train as train_command
from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.data.dataset import Dataset
from mosld.data.rows import Solution
from mosld.data.splits import TaskData
from mosld.data.tasks import TASKS
from mosld.recipes.context import RunContext
from mosld.runs.console import Console
from tests.helpers.toy_runs import evaluation_of


@pytest.fixture(scope="module")
def finished(mixed_root, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("generated") / "run"
    command = [
        "method=mosld", "model=tiny", "data=mixture_gsm8k", "data.tasks=[obqa,gsm8k]", "source=local",
        f"source.root={mixed_root}", "debug=fast", "logger=files", f"output_dir={run}",
    ]  # fmt: skip
    assert train_command.main(command) == 0
    return run


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_choices_and_numbers_are_in_one_table_before_and_after_training(finished):
    results = read(finished / "results.json")
    assert list(results["scores"]) == list(results["base_scores"]) == ["obqa", "gsm8k"]
    assert results["average"] == sum(score["accuracy"] for score in results["scores"].values()) / 2


@pytest.mark.parametrize("folder", ["predictions", "predictions/base"])
def test_predictions_of_numbers_hold_no_text(finished, folder):
    lines = [json.loads(line) for line in (finished / folder / "gsm8k.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [["id", "prediction", "correct", "strict", "flexible"]] * 8


def test_validation_scores_both_kinds(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    tasks = [list(line["validation_accuracy"]) for line in lines if "validation_accuracy" in line]
    assert tasks == [["obqa", "gsm8k"]]


def test_routing_json_has_the_experts_of_generated_answers(finished):
    assert sorted(read(finished / "routing.json")) == ["gsm8k", "obqa"]


@pytest.mark.parametrize("prompt", ["letter", "cloze"])
def test_eval_generates_the_same_numbers_whatever_the_prompt_format_of_choices(finished, prompt):
    assert eval_command.main([f"run={finished}", f"prompt={prompt}", "evaluation.base=false"]) == 0
    directory = evaluation_of(finished, "mixture_gsm8k", prompt)
    again = (directory / "predictions" / "gsm8k.jsonl").read_bytes()
    assert again == (finished / "predictions" / "gsm8k.jsonl").read_bytes()
    assert read(directory / "results.json")["scores"]["gsm8k"] == read(finished / "results.json")["scores"]["gsm8k"]


def context(tokenizer, *answers: str) -> RunContext:
    rows = [Solution("gsm8k", str(i), "", "How many?", answer, "7") for i, answer in enumerate(answers)]
    dataset = Dataset({"gsm8k": TaskData(TASKS["gsm8k"], rows, [], [])}, "local")
    return RunContext(load_config(["model=tiny", "data=single_gsm8k"]), dataset, tokenizer, Console())


def test_solutions_that_are_left_out_are_counted_in_a_message(tokenizer, capsys):
    assert len(context(tokenizer, "7", "x" * 600, "y" * 600).encode_train()) == 1
    assert "gsm8k: 2 of 3 train rows are longer than 512 tokens (longest 636): 2 dropped" in capsys.readouterr().err


def test_a_run_without_any_row_that_fits_is_rejected(tokenizer):
    with pytest.raises(UserError, match="no train row fits"):
        context(tokenizer, "x" * 600).encode_train()
