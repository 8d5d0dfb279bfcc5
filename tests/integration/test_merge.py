"""`mosld.merge`: the merged model scores and answers like base + adapter; other methods are rejected."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from mosld import chat as chat_command
from mosld import eval as eval_command
from mosld import merge as merge_command
from mosld import train as train_command
from mosld.common.errors import UserError
from mosld.common.files import damage
from mosld.recipes.load import load_trained
from mosld.recipes.verify import verify_runs
from mosld.runs.saved import saved_run
from tests.helpers.toy_runs import evaluation_of


def train(method: str, toy_root: Path, run: Path) -> Path:
    arguments = [
        f"method={method}", "model=tiny", "source=local", f"source.root={toy_root}", "data=mixture",
        "data.tasks=[obqa,arc_e]", "data.limit=16", "training.max_steps=4", "training.epochs=1", "evaluation.limit=8",
        "evaluation.validation_limit=2", "logger=files", "training.learning_rate=0.02", "model.dtype=float32",
        f"output_dir={run}",
    ]  # fmt: skip
    assert train_command.main(arguments) == 0
    return run


@pytest.fixture(scope="module")
def lora(toy_root, tmp_path_factory) -> Path:
    return train("lora", toy_root, tmp_path_factory.mktemp("merge") / "lora")


@pytest.fixture(scope="module")
def merged(lora, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("merge") / "deep" / "merged"
    assert merge_command.main([str(lora), "--output", str(target)]) == 0
    return target


def load(folder: Path):
    """The model and tokenizer of a run."""
    run = saved_run(str(folder))
    return load_trained(run.config().model, run)


def records(run: Path) -> list[dict]:
    files = sorted((evaluation_of(run, "mixture") / "predictions").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_merged_directory_is_complete_and_has_a_card(merged, lora):
    assert list(damage(merged)) == []
    assert {"model.safetensors", "config.json", "tokenizer.json", "config.yaml", "README.md"} <= {
        path.name for path in merged.iterdir()
    }
    card = (merged / "README.md").read_text()
    yaml.safe_load(card.split("---")[1])
    score = json.loads((lora / "results.json").read_text())["scores"]["obqa"]["accuracy"]
    assert "merged into its weights: a stand-alone model" in card
    assert f"| obqa | {100 * score:.1f} ±" in card
    assert not list(merged.parent.glob(".tmp-*"))


def test_a_merged_directory_is_no_run_to_verify(merged):
    with pytest.raises(UserError, match="there is no run"):
        verify_runs(merged.parent, 0)


def test_logits_in_transformers_equal_base_and_adapter(merged, lora):
    adapted, _ = load(lora)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    ids = tokenizer("Question: Why?\nAnswer:", return_tensors="pt").input_ids
    with torch.inference_mode():
        ours, theirs = model(ids).logits, adapted(ids).logits
        with adapted.disable_adapter():
            base = adapted(ids).logits
    assert (theirs - base).abs().max() > 1e-2
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_scores_equal_base_and_adapter(merged, lora):
    for run in (merged, lora):
        assert eval_command.main([f"run={run}"]) == 0
    ours, theirs = records(merged), records(lora)
    assert len(ours) == 16
    assert [record["prediction"] for record in ours] == [record["prediction"] for record in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-3)


def test_answers_equal_base_and_adapter(merged, lora, capsys):
    answers = []
    for run in (merged, lora):
        capsys.readouterr()
        assert chat_command.main([str(run), "--prompt", "Why?", "--experts"]) == 0
        answers.append(capsys.readouterr())
    assert answers[0] == answers[1]
    assert "lora has no router" in answers[0].err


def test_other_dtype_is_rounded_once_and_recorded(lora, tmp_path, capsys):
    empty = tmp_path / "half"
    empty.mkdir()
    assert merge_command.main([str(lora / "adapter"), "--output", str(empty), "--dtype", "bfloat16"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(empty)
    assert "merged in float32 (on a probe, logits differ by " in captured.err
    assert "written in bfloat16" in captured.err
    assert yaml.safe_load((empty / "config.yaml").read_text())["model"]["dtype"] == "bfloat16"
    model, _ = load(empty)
    assert model.dtype == torch.bfloat16
    exact = load(lora)[0].merge_and_unload()
    for name, weight in exact.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.bfloat16())


REASONS = {
    "mosld": "mosld routes: every token has its own sum of experts",
    "prefix": "prefix learned keys and values",
    "full": "already is a whole, stand-alone model",
}


@pytest.mark.parametrize("method", REASONS)
def test_other_methods_are_rejected_before_a_model_loads(method, toy_root, tmp_path, monkeypatch, capsys):
    run = train(method, toy_root, tmp_path / method)
    monkeypatch.setattr("mosld.recipes.load.load_base_model", lambda *_: pytest.fail("a model was loaded"))
    capsys.readouterr()
    assert merge_command.main([str(run), "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert REASONS[method] in captured.err
    assert not (tmp_path / "out").exists()


def test_merged_model_is_not_merged_again(merged, tmp_path, capsys):
    assert merge_command.main([str(merged), "--output", str(tmp_path / "out")]) == 2
    assert "already is a whole, stand-alone model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}"], "the following arguments are required: --output"),
        (["{run}", "--output", "{run}"], "exists and is not an empty directory"),
        (["{run}", "--output", "{run}/config.yaml"], "exists and is not an empty directory"),
        (["{run}", "--output", "{run}/config.yaml/out"], "nothing can be made in {run}/config.yaml"),
        (["{run}", "--out", "x"], "--out: unknown flag; did you mean '--output'"),
        (["{run}", "--output", "x", "--dtype", "float16"], "invalid choice: 'float16'"),
        (["nowhere", "--output", "x"], "nowhere: no such directory"),
    ],
)
def test_mistake_is_one_message(arguments, message, lora, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert merge_command.main([argument.format(run=lora) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert message.format(run=lora) in captured.err
    assert list(tmp_path.iterdir()) == []


def test_damaged_adapter_is_rejected(lora, tmp_path, capsys):
    run = shutil.copytree(lora, tmp_path / "run")
    (run / "adapter" / "adapter_model.safetensors").unlink()
    # With them the adapter would be made again.
    shutil.rmtree(run / "checkpoints")
    assert merge_command.main([str(run), "--output", str(tmp_path / "out")]) == 2
    assert "adapter_model.safetensors is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
