"""Whole runs by the commands a user types: instructions beside the tasks, mmlu, and the user's own files."""

import json
import math
from pathlib import Path

import pytest

from mosld import eval as eval_command
from mosld import train as train_command
from tests.helpers.toy_runs import evaluation_of

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "own_data.md"
FAST = ["debug=fast", "logger=files"]


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def instructed(tmp_path_factory) -> Path:
    """A run on two tasks and openorca, all bundled."""
    run = tmp_path_factory.mktemp("runs") / "instructed"
    tasks = ["data=mixture_openorca", "data.tasks=[arc_e,openorca]", "data.n_openorca=20", "data.limit=12"]
    assert train_command.main(["method=mosld", *tasks, *FAST, f"output_dir={run}"]) == 0
    return run


@pytest.mark.slow
def test_openorca_is_trained_on_and_not_scored(instructed):
    results = read(instructed / "results.json")
    assert list(results["scores"]) == list(results["base_scores"]) == ["arc_e"]
    assert results["data"]["counts"]["openorca"] == {"train": 12, "validation": 0, "test": 0}
    assert (results["data"]["split_policy"], results["data"]["leaks"]) == ("official", {"arc_e": 0})
    assert sorted(path.name for path in (instructed / "predictions").glob("*.jsonl")) == ["arc_e.jsonl"]


@pytest.mark.parametrize(("prompt", "shots"), [("letter", 0), ("list", 1), ("cloze", 5)])
@pytest.mark.slow
def test_mmlu_is_scored_by_subject_and_category(prompt, shots, instructed, capsys):
    command = [f"run={instructed}", "data=mmlu", f"prompt={prompt}", f"evaluation.shots={shots}", "evaluation.limit=30"]
    assert eval_command.main([*command, "evaluation.base=true"]) == 0
    directory = evaluation_of(instructed, "mmlu", f"{prompt}-{shots}shot" if shots else prompt)
    output = capsys.readouterr().out
    results = read(directory / "results.json")
    score = results["scores"]["mmlu"]
    assert (results["shots"], score["n"], list(results["base_scores"])) == (shots, 30, ["mmlu"])
    for parts in (score["by_subject"], score["by_category"]):
        assert sum(part["n"] for part in parts.values()) == 30
        right = sum(part["accuracy"] * part["n"] for part in parts.values())
        assert right == pytest.approx(30 * score["accuracy"])
        assert all({"accuracy", "stderr", "n"} <= part.keys() for part in parts.values())
    assert set(score["by_category"]) <= {"STEM", "humanities", "social sciences", "other"}
    assert all(name in output for name in [*score["by_category"], *score["by_subject"]])


@pytest.fixture
def root(tmp_path) -> Path:
    """Multiple choice in one file, replies in another."""
    root = tmp_path / "mine"
    root.mkdir()
    law = [{"q": f"Is {i} even?", "options": ["yes", "no"], "label": "AB"[i % 2]} for i in range(30)]
    chat = [{"q": f"Say {i}.", "a": str(i)} for i in range(30)]
    for name, rows in (("law", law), ("chat", chat)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


MAPS = "data.columns={law: {question: q, choices: options, answer: label}, chat: {question: q, response: a}}"


@pytest.mark.slow
def test_own_tasks_of_two_kinds_are_trained_and_evaluated_again(root, tmp_path):
    run = tmp_path / "run"
    command = ["method=mosld", "data=local", "source=local", f"source.root={root}", MAPS, *FAST, f"output_dir={run}"]
    assert train_command.main(command) == 0
    results = read(run / "results.json")
    assert list(results["scores"]) == ["chat", "law"]
    lines = [json.loads(line) for line in (run / "predictions" / "chat.jsonl").read_text().splitlines()]
    assert [sorted(line) for line in lines] == [["correct", "id", "prediction"]] * 3
    assert eval_command.main([f"run={run}", "evaluation.base=false"]) == 0
    assert read(evaluation_of(run, "") / "results.json")["scores"] == results["scores"]


def test_run_without_scored_tasks_saves_its_last_weights_and_says_so(root, tmp_path, capsys):
    run = tmp_path / "run"
    keys = ["data.tasks=[chat]", MAPS, "data.score_replies=false", "training.validate_every=1"]
    command = ["method=lora", "data=local", "source=local", f"source.root={root}", *keys, *FAST, f"output_dir={run}"]
    assert train_command.main(command) == 0
    results = read(run / "results.json")
    assert (results["status"], results["scores"], results["average"], results["best_step"]) == ("finished", {}, None, 2)
    assert "nothing was scored" in capsys.readouterr().out
    assert (run / "adapter" / "README.md").is_file()
    assert eval_command.main([f"run={run}"]) == 2


@pytest.mark.parametrize(
    ("task", "keys", "best_by", "lines"),
    [
        ("law", [], "accuracy", ["law: 24 train rows, 3 epochs of 3 steps = 9 steps"]),
        ("chat", ["training.epochs=1"], "loss", ["chat: 24 train rows, 1 epoch of 3 steps = 3 steps"]),
        (
            "chat", ["training.max_steps=2"], "loss",
            [
                "chat: 24 train rows, 3 epochs of 3 steps = 9 steps; it ends at step 2 (training.max_steps=2)",
                "8 of 24 rows are never seen (training.max_steps=2)",
            ],
        ),
        (
            "chat", ["data.score_replies=false", "data.mixing=cap", "data.cap=5"], "last",
            [
                "chat: 30 train rows, 3 epochs of 1 step = 3 steps",
                "15 of 30 rows are never seen (data.mixing=cap)",
            ],
        ),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_own_files_are_trained_in_epochs_and_the_log_says_what_is_not_seen(
    task, keys, best_by, lines, root, tmp_path, capsys
):
    run = tmp_path / "run"
    data = ["data=local", "source=local", f"source.root={root}", MAPS, f"data.tasks=[{task}]"]
    small = ["method=lora", "model=tiny", "logger=files", "evaluation.limit=2", "evaluation.max_new_tokens=4"]
    assert train_command.main([*data, *small, *keys, f"output_dir={run}"]) == 0
    # A line has its time before two spaces.
    said = [line.partition("  ")[2] for line in (run / "train.log").read_text().splitlines()]
    assert [line for line in said if "train rows," in line or "never seen" in line] == lines
    results = read(run / "results.json")
    assert (results["best_by"], results["stopped_early"]) == (best_by, False)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["validation_loss_average"] for line in metrics if "validation_loss" in line}
    assert results["validation_loss"] == losses[results["best_step"]]
    if best_by == "loss":
        assert results["validation_loss"] == min(losses.values())
        assert results["validation_perplexity"] == pytest.approx(math.exp(results["validation_loss"]))


def test_patience_without_validation_rows_is_refused(root, capsys):
    data = ["data=local", "source=local", f"source.root={root}", MAPS, "data.tasks=[chat]", "data.score_replies=false"]
    assert train_command.main([*data, "model=tiny", "logger=files", "training.patience=2"]) == 2
    assert "training.patience=2: chat has no validation rows" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_too_long_rows_are_refused_before_weights_are_read(split, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mosld.recipes.train.load_base_model", None)  # a call would be a TypeError
    for name in ("train", "validation", "test"):
        words = 3000 if name == split else 1
        rows = [{"prompt": f"Say {'it ' * words}", "response": str(i)} for i in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [f"source.root={tmp_path}", "data.too_long=error", *FAST, f"output_dir={tmp_path / 'run'}"]
    assert train_command.main(command) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert all(part in message for part in ("data.too_long=error", f"3 of 3 {split} rows", "data.cutoff"))
