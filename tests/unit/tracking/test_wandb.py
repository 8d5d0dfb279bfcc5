"""An offline W&B run read back from its .wandb file: history, summary, config, table; no secret in any file.

Runs that end early: one id and all steps after an interruption, an alert on divergence.
"""

import json
import struct
from types import SimpleNamespace

import pytest
from wandb.proto import wandb_internal_pb2

from mosld import eval as eval_command
from mosld import train as train_command
from mosld.tracking.wandb import WandbTracker
from mosld.training.step import Stepper, StepResult
from tests.helpers.toy_runs import evaluation_of

SECRET = "f00dfeedf00dfeedf00dfeedf00dfeedf00dfeed"


def records(path):
    """The records of a .wandb file: LevelDB log framing, 7-byte headers in blocks of 32 KiB, a file header of 7."""
    content, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # padding at the end of a block
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


@pytest.fixture(scope="module")
def run(toy_root, tmp_path_factory):
    path = tmp_path_factory.mktemp("wandb") / "run"
    arguments = [
        "model=tiny", "data=single_arc_e", "source=local", f"source.root={toy_root}", "logger=wandb",
        "logger.mode=offline", "logger.artifact=true", "logger.group=my-sweep",
        "training.epochs=1", "training.batch_size=16", "evaluation.base=true", f"output_dir={path}",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "HF_TOKEN"):
            patch.setenv(name, SECRET)
        assert train_command.main(arguments) == 0
    return path


@pytest.fixture(scope="module")
def sent(run):
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    return list(records(file))


def of_kind(sent, kind):
    """The records of one kind: history, summary, run, metric, artifact, alert."""
    return [getattr(record, kind) for record in sent if record.WhichOneof("record_type") == kind]


def histories(sent):
    return [items(history.item) for history in of_kind(sent, "history")]


def summary(sent):
    return {key: value for update in of_kind(sent, "summary") for key, value in items(update.update).items()}


def media(sent, run, name):
    """The file that a line of the history names."""
    (path,) = [line[f"{name}.path"] for line in histories(sent) if f"{name}.path" in line]
    (file,) = run.glob(f"wandb/offline-run-*/files/{path}")
    return file


def items(entries):
    return {entry.key or ".".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


@pytest.mark.slow
def test_history_has_every_step_and_validation(sent):
    history = histories(sent)
    steps = [line["train/step"] for line in history if "train/cross_entropy" in line]
    assert steps == [1, 2, 3]
    assert all({"train/balance_loss", "train/tokens"} <= line.keys()
               for line in history if "train/cross_entropy" in line)  # fmt: skip
    (validation,) = [line for line in history if "validation/arc_e" in line]
    assert {"validation_loss/arc_e", "validation_loss/average", "validation_loss/perplexity"} <= validation.keys()
    assert any(key.startswith("predictions") for line in history for key in line)


def test_validation_of_an_older_run_has_no_loss():
    logged = []
    tracker = WandbTracker.__new__(WandbTracker)
    tracker._run = SimpleNamespace(log=logged.append)
    tracker._log({"step": 4, "validation_accuracy": {"obqa": 0.25}, "validation_average": 0.25})
    assert logged == [{"train/step": 4, "validation/obqa": 0.25, "validation/average": 0.25}]


def test_dropped_share_is_the_mean_over_modules():
    logged = []
    tracker = WandbTracker.__new__(WandbTracker)
    tracker._run = SimpleNamespace(log=logged.append)
    tracker._log({"step": 1, "expert_load": {"a": [0.5, 0.5], "b": [1.0]}, "dropped": {"a": 0.1, "b": 0.3}})
    tracker._log({"step": 2, "expert_load": {"a": [1.0]}})
    assert logged[0]["train/dropped_share"] == pytest.approx(0.2)
    assert "train/dropped_share" not in logged[1]


def test_summary_has_the_scores_of_results_json(sent, run):
    results = json.loads((run / "results.json").read_text())
    numbers = summary(sent)
    assert numbers["test/arc_e/accuracy"] == results["scores"]["arc_e"]["accuracy"]
    assert numbers["untrained/arc_e/accuracy"] == results["base_scores"]["arc_e"]["accuracy"]


@pytest.mark.slow
def test_evaluation_on_mmlu_sends_scores_by_category_and_subject(run):
    asked = ["data=mmlu", "source=bundled", "evaluation.limit=24", "evaluation.base=true"]
    assert eval_command.main([f"run={run}", *asked]) == 0
    assert not (evaluation_of(run, "mmlu") / "wandb").exists()  # the run had logger=wandb: nothing is sent unasked
    assert eval_command.main([f"run={run}", *asked, "logger=wandb", "logger.mode=offline"]) == 0
    directory = evaluation_of(run, "mmlu")
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    sent, results = list(records(file)), json.loads((directory / "results.json").read_text())
    numbers = summary(sent)
    score, before = results["scores"]["mmlu"], results["base_scores"]["mmlu"]
    assert len(score["by_category"]) > 1
    for name, part in score["by_category"].items():
        assert numbers[f"test/mmlu/{name}/accuracy"] == part["accuracy"]
        assert numbers[f"test/mmlu/{name}/stderr"] == part["stderr"]
        assert numbers[f"untrained/mmlu/{name}/accuracy"] == before["by_category"][name]["accuracy"]
    assert numbers["test/mmlu/accuracy"] == score["accuracy"]
    table = media(sent, directory, "scores")
    assert json.loads(table.read_text())["data"] == [
        [name, part["n"], part["accuracy"], part["stderr"], first["accuracy"]]
        for name, part, first in [
            ("mmlu", score, before),
            *((f"mmlu/{name}", score[kind][name], before[kind][name])
              for kind in ("by_category", "by_subject") for name in score[kind]),
        ]
    ]  # fmt: skip
    (started,) = of_kind(sent, "run")
    assert (started.job_type, started.display_name) == ("eval", "mosld-mmlu-tiny-r8-d0.1-s0")


def test_run_has_name_group_job_type_and_config(sent):
    (started,) = of_kind(sent, "run")
    assert started.display_name == "mosld-single_arc_e-tiny-r8-d0.1-s0"
    assert (started.run_group, started.job_type, started.project) == ("my-sweep", "train", "mosld")
    assert items(started.config.update)["method"]["rank"] == 8


def test_metrics_have_steps_or_tokens_as_x_axis(sent):
    drawn = {(metric.glob_name, metric.step_metric) for metric in of_kind(sent, "metric")}
    assert {("train/*", "train/step"), ("validation/*", "train/step"), ("by_tokens/*", "train/tokens")} <= drawn


def test_loss_over_tokens_equals_loss_over_steps(sent):
    lines = [line for line in histories(sent) if "train/cross_entropy" in line]
    assert [line["by_tokens/cross_entropy"] for line in lines] == [line["train/cross_entropy"] for line in lines]


def test_scores_are_a_table(sent, run):
    results = json.loads((run / "results.json").read_text())
    file = media(sent, run, "scores")
    assert json.loads(file.read_text())["data"] == [
        ["arc_e", 20, results["scores"]["arc_e"]["accuracy"], results["scores"]["arc_e"]["stderr"],
         results["base_scores"]["arc_e"]["accuracy"]]
    ]  # fmt: skip


def test_loss_curve_is_an_image(sent, run):
    file = media(sent, run, "figures/loss")
    assert file.read_bytes()[:4] == b"\x89PNG"
    assert file.stat().st_size > 10_000


def test_adapter_is_an_artifact_if_asked_for(sent, run):
    (adapter,) = [artifact for artifact in of_kind(sent, "artifact") if artifact.type == "model"]
    entries = {entry.path for entry in adapter.manifest.contents}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= entries


def test_no_secret_and_no_question_is_written(run):
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 10
    content = {path: path.read_bytes() for path in files}
    assert [path for path, text in content.items() if SECRET.encode() in text] == []
    assert [path for path, text in content.items() if b"What colour is it" in text] == []


@pytest.fixture
def arguments(toy_root, tmp_path):
    return [
        "model=tiny", "data=single_arc_e", "source=local", f"source.root={toy_root}", "logger=wandb",
        "logger.mode=offline", "training.epochs=2", "training.batch_size=16", "training.checkpoint_every=1",
        f"output_dir={tmp_path / 'run'}",
    ]  # fmt: skip


def files(tmp_path):
    return sorted(tmp_path.glob("run/wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.slow
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
    # logger.artifact is not set.
    assert "model" not in {artifact.type for artifact in of_kind(list(records(second)), "artifact")}


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
