"""Offline W&B runs that end early: one id and all steps after an interruption, an alert on divergence."""

import pytest

from mosld import train as train_command
from mosld.training.step import Stepper, StepResult
from tests.unit.tracking.test_wandb import histories, of_kind, records, summary


@pytest.fixture
def arguments(toy_root, tmp_path):
    return [
        "model=tiny", "data=single_arc_e", "source=local", f"source.root={toy_root}", "logger=wandb",
        "logger.mode=offline", "training.epochs=2", "training.batch_size=16", "training.checkpoint_every=1",
        f"output_dir={tmp_path / 'run'}",
    ]  # fmt: skip


def files(tmp_path):
    return sorted(tmp_path.glob("run/wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def test_resumed_run_has_all_steps_under_the_same_id(arguments, tmp_path, monkeypatch):
    take = Stepper.step

    def stopped(stepper, examples, size, rate, number, *others):
        if number == 4:
            raise KeyboardInterrupt
        return take(stepper, examples, size, rate, number, *others)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", stopped)
        assert train_command.main(arguments) == 75
    assert train_command.main(arguments) == 0
    first, second = files(tmp_path)
    assert len({run.run_id for file in (first, second) for run in of_kind(list(records(file)), "run")}) == 1
    steps = [line["train/step"] for line in histories(list(records(second))) if "train/cross_entropy" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_diverged_run_sends_an_alert(arguments, tmp_path, monkeypatch):
    lost = StepResult(float("nan"), None, float("nan"), 10, applied=False)
    monkeypatch.setattr(Stepper, "step", lambda *_, **__: lost)
    assert train_command.main(arguments) == 3
    (file,) = files(tmp_path)
    sent = list(records(file))
    (alert,) = of_kind(sent, "alert")
    assert "diverged" in alert.title
    assert "3 steps in a row" in alert.text
    assert summary(sent)["status"] == "diverged"


def test_no_artifact_without_logger_artifact(arguments, tmp_path):
    assert train_command.main(arguments) == 0
    (file,) = files(tmp_path)
    assert "model" not in [artifact.type for artifact in of_kind(list(records(file)), "artifact")]
