"""How offline W&B runs end and begin again: one id, a whole file after an interruption, an alert on divergence."""

import pytest

from mosld import train as train_command
from mosld.training.step import Stepper, StepResult
from tests.unit.tracking.test_wandb import histories, items, records


@pytest.fixture
def arguments(toy_root, tmp_path):
    return [
        "model=tiny", "data=single_arc_e", "source=local", f"source.root={toy_root}", "logger=wandb",
        "logger.mode=offline", "training.epochs=2", "training.batch_size=16", "training.checkpoint_every=1",
        f"output_dir={tmp_path / 'run'}",
    ]  # fmt: skip


def files(tmp_path):
    return sorted(tmp_path.glob("run/wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def started(path):
    return next(record.run for record in records(path) if record.WhichOneof("record_type") == "run")


def test_after_an_interruption_the_newest_file_holds_all_steps_under_the_same_id(arguments, tmp_path, monkeypatch):
    take = Stepper.step

    def stopped(stepper, examples, size, rate, number, stop=lambda: False):
        if number == 4:
            raise KeyboardInterrupt
        return take(stepper, examples, size, rate, number, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", stopped)
        assert train_command.main(arguments) == 75
    assert train_command.main(arguments) == 0
    first, second = files(tmp_path)
    assert started(first).run_id == started(second).run_id
    steps = [line["train/step"] for line in histories(list(records(second))) if "train/cross_entropy" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_run_that_diverges_sends_an_alert(arguments, tmp_path, monkeypatch):
    lost = StepResult(float("nan"), None, float("nan"), 10, applied=False)
    monkeypatch.setattr(Stepper, "step", lambda *_, **__: lost)
    assert train_command.main(arguments) == 3
    (file,) = files(tmp_path)
    found = list(records(file))
    (alert,) = [record.alert for record in found if record.WhichOneof("record_type") == "alert"]
    assert "diverged" in alert.title
    assert "3 steps in a row" in alert.text
    summary = {}
    for record in found:
        if record.WhichOneof("record_type") == "summary":
            summary.update(items(record.summary.update))
    assert summary["status"] == "diverged"


def test_without_artifact_no_weights_are_sent(arguments, tmp_path):
    assert train_command.main(arguments) == 0
    (file,) = files(tmp_path)
    sent = [r.artifact.type for r in records(file) if r.WhichOneof("record_type") == "artifact"]
    assert "model" not in sent
