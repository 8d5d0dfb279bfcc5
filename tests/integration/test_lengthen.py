"""A run that has only become longer goes on from its last checkpoint, and its results say so."""

import json
import shutil

import pytest

from mosld import eval as eval_command
from mosld import train as train_command
from tests.helpers.cases import command, metrics, weights

pytestmark = pytest.mark.slow

CONSTANT = ("training.schedule=constant", "training.warmup=0")


def results(run) -> dict:
    return json.loads((run / "results.json").read_text())


@pytest.mark.parametrize("method", ["mosld", "lora", "full"])
def test_longer_run_equals_one_of_that_length_where_the_rate_does_not_change(method, tmp_path):
    run = tmp_path / "run"
    straight = tmp_path / "straight"
    assert train_command.main(command(tmp_path, *CONSTANT, method=method, steps=2)) == 0
    assert train_command.main([f"output_dir={run}", "training.max_steps=5"]) == 0
    arguments = command(tmp_path, method=method, steps=5)[:-1]
    assert train_command.main([*arguments, *CONSTANT, f"output_dir={straight}"]) == 0
    assert results(run)["scores"] == results(straight)["scores"]
    assert results(run)["config"] == results(straight)["config"]
    assert results(run)["lengthened"] == [{"step": 2, "training.max_steps": [2, 5]}]
    assert "lengthened" not in results(straight)
    if method != "full":
        assert weights(run) == weights(straight)


def test_rates_are_those_of_the_new_length_from_the_step_on(tmp_path):
    run = tmp_path / "run"
    arguments = command(tmp_path, "training.warmup=0", "training.learning_rate=0.004", "logger.every=1", steps=2)
    assert train_command.main(arguments) == 0
    assert eval_command.main([f"run={run}", "evaluation.limit=2"]) == 0
    # The whole command again with more steps is the same request.
    assert train_command.main([text.replace("max_steps=2", "max_steps=4") for text in arguments]) == 0
    assert train_command.main([f"output_dir={run}", "training.max_steps=8"]) == 0
    rates = [line["learning_rate"] for line in metrics(run) if "learning_rate" in line]
    # Linear to zero: 0.004 (T - step) / T with T = 2, then 4, then 8.
    assert rates == pytest.approx([0.004, 0.002, 0.002, 0.001, 0.002, 0.0015, 0.001, 0.0005])
    assert [entry["step"] for entry in results(run)["lengthened"]] == [2, 4]
    # The evaluation of the former weights is no evaluation of these.
    assert not (run / "eval").exists()
    assert list(run.glob("before/step-000002/eval/*/results.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("training.max_steps=1",), "training.max_steps: was 2, is 1"),
        (("training.max_steps=4", "seed=1"), "seed: was 0, is 1"),
        (("training.max_steps=4", "training.epochs=1"), "training.epochs: was 3, is 1"),
        (("training.max_steps=4", "data.limit=8"), "data: the rows changed"),
    ],
)
def test_anything_else_is_refused(changes, message, tmp_path, capsys):
    assert train_command.main(command(tmp_path, steps=2)) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    given = {text.partition("=")[0] for text in changes}
    kept = [text for text in command(tmp_path, steps=2) if text.partition("=")[0] not in given]
    assert train_command.main([*kept, *changes]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_finished_run_without_checkpoints_is_refused_and_kept(tmp_path, capsys):
    assert train_command.main(command(tmp_path, steps=2)) == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert train_command.main([f"output_dir={tmp_path / 'run'}", "training.max_steps=4"]) == 2
    assert "has no checkpoint to go on from" in capsys.readouterr().err
    assert results(tmp_path / "run")["status"] == "finished"
