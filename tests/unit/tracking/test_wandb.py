"""An offline W&B run read back from its .wandb file: history, summary, config, table; no secret in any file."""

import json
import struct
from types import SimpleNamespace

import pytest
from wandb.proto import wandb_internal_pb2

from mosld import eval as eval_command
from mosld import train as train_command
from mosld.tracking.wandb import WandbTracker

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
def found(run):
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    return list(records(file))


def kinds(found):
    return [record.WhichOneof("record_type") for record in found]


def histories(found):
    return [items(record.history.item) for record in found if record.WhichOneof("record_type") == "history"]


def media(found, run, name):
    """The file that a line of the history names."""
    (path,) = [line[f"{name}.path"] for line in histories(found) if f"{name}.path" in line]
    return list(run.glob(f"wandb/offline-run-*/files/{path}"))


def items(entries):
    return {entry.key or ".".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


def test_history_holds_every_step_and_validation(found):
    history = histories(found)
    steps = [line["train/step"] for line in history if "train/cross_entropy" in line]
    assert steps == [1, 2, 3]
    assert all({"train/balance_loss", "train/tokens", "train/busiest_expert_share"} <= line.keys()
               for line in history if "train/cross_entropy" in line)  # fmt: skip
    assert any("validation/arc_e" in line for line in history)
    assert any(key.startswith("predictions") for line in history for key in line)


def test_the_share_that_found_no_room_is_a_number_to_draw():
    logged = []
    tracker = WandbTracker.__new__(WandbTracker)
    tracker._run = SimpleNamespace(log=logged.append)
    tracker._log({"step": 1, "expert_load": {"a": [0.5, 0.5], "b": [1.0]}, "dropped": {"a": 0.1, "b": 0.3}})
    tracker._log({"step": 2, "expert_load": {"a": [1.0]}})
    assert logged[0]["train/dropped_share"] == pytest.approx(0.2)
    assert "train/dropped_share" not in logged[1]


def test_summary_holds_the_scores_of_results_json(found, run):
    results = json.loads((run / "results.json").read_text())
    summary = {}
    for record in found:
        if record.WhichOneof("record_type") == "summary":
            summary.update(items(record.summary.update))
    assert summary["test/arc_e/accuracy"] == results["scores"]["arc_e"]["accuracy"]
    assert summary["untrained/arc_e/accuracy"] == results["base_scores"]["arc_e"]["accuracy"]


def test_an_evaluation_on_mmlu_sends_its_scores_by_category_and_subject(run):
    asked = ["data=mmlu", "source=bundled", "evaluation.limit=24", "evaluation.base=true"]
    assert eval_command.main([f"run={run}", *asked]) == 0
    assert not (run / "eval" / "mmlu-letter" / "wandb").exists()  # the run had logger=wandb: nothing is sent unasked
    assert eval_command.main([f"run={run}", *asked, "logger=wandb", "logger.mode=offline"]) == 0
    place = run / "eval" / "mmlu-letter"
    (file,) = place.glob("wandb/offline-run-*/*.wandb")
    sent, results = list(records(file)), json.loads((place / "results.json").read_text())
    summary = {}
    for record in sent:
        if record.WhichOneof("record_type") == "summary":
            summary.update(items(record.summary.update))
    score, before = results["scores"]["mmlu"], results["base_scores"]["mmlu"]
    assert len(score["by_category"]) > 1
    for name, part in score["by_category"].items():
        assert summary[f"test/mmlu/{name}/accuracy"] == part["accuracy"]
        assert summary[f"test/mmlu/{name}/stderr"] == part["stderr"]
        assert summary[f"untrained/mmlu/{name}/accuracy"] == before["by_category"][name]["accuracy"]
    assert summary["test/mmlu/accuracy"] == score["accuracy"]
    (table,) = media(sent, place, "scores")
    assert json.loads(table.read_text())["data"] == [
        [name, part["n"], part["accuracy"], part["stderr"], first["accuracy"]]
        for name, part, first in [
            ("mmlu", score, before),
            *((f"mmlu/{name}", score[kind][name], before[kind][name])
              for kind in ("by_category", "by_subject") for name in score[kind]),
        ]
    ]  # fmt: skip
    (started,) = [record.run for record in sent if record.WhichOneof("record_type") == "run"]
    assert (started.job_type, started.display_name) == ("eval", "mosld-mmlu-tiny-r8-d0.1-s0")


def test_name_group_job_type_and_config_are_readable(found):
    (started,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert started.display_name == "mosld-single_arc_e-tiny-r8-d0.1-s0"
    assert (started.run_group, started.job_type, started.project) == ("my-sweep", "train", "mosld")
    assert items(started.config.update)["method"]["rank"] == 8


def test_metrics_are_drawn_over_steps_and_over_tokens(found):
    metrics = [record.metric for record in found if record.WhichOneof("record_type") == "metric"]
    drawn = {(metric.glob_name, metric.step_metric) for metric in metrics}
    assert {("train/*", "train/step"), ("validation/*", "train/step"), ("by_tokens/*", "train/tokens")} <= drawn


def test_the_loss_over_tokens_is_the_loss_over_steps(found):
    lines = [line for line in histories(found) if "train/cross_entropy" in line]
    assert [line["by_tokens/cross_entropy"] for line in lines] == [line["train/cross_entropy"] for line in lines]


def test_the_scores_are_a_table(found, run):
    results = json.loads((run / "results.json").read_text())
    (file,) = media(found, run, "scores")
    assert json.loads(file.read_text())["data"] == [
        ["arc_e", 20, results["scores"]["arc_e"]["accuracy"], results["scores"]["arc_e"]["stderr"],
         results["base_scores"]["arc_e"]["accuracy"]]
    ]  # fmt: skip


def test_the_loss_curve_is_an_image(found, run):
    (file,) = media(found, run, "figures/loss")
    assert file.read_bytes()[:4] == b"\x89PNG"
    assert file.stat().st_size > 10_000


def test_the_adapter_is_an_artifact_where_asked_for(found, run):
    logged = [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"]
    (adapter,) = [artifact for artifact in logged if artifact.type == "model"]
    entries = {entry.path for entry in adapter.manifest.contents}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= entries


def test_no_secret_and_no_question_reaches_a_file(run):
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 10
    content = {path: path.read_bytes() for path in files}
    assert [path for path, text in content.items() if SECRET.encode() in text] == []
    assert [path for path, text in content.items() if b"What colour is it" in text] == []
