"""MoA's two stages: one command for both, given adapters, a task added to a finished run, rejected options."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mosld import eval as eval_command
from mosld import train as train_command
from mosld.training.loop import Loop
from tests.helpers.toy_runs import evaluation_of

pytestmark = pytest.mark.slow

WEIGHTS = "adapter_model.safetensors"
LAYER = "base_model.model.model.layers.1.self_attn.v_proj"
RANK = 8


def command(root: Path, run: Path, *more: str, tasks: str = "obqa,arc_e") -> list[str]:
    return [
        "method=moa", "model=tiny", "source=local", f"source.root={root}", f"data.tasks=[{tasks}]", "debug=fast",
        "training.max_steps=4", "logger=files", f"output_dir={run}", *more,
    ]  # fmt: skip


def bank(run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    weights = load_file(run / "adapter" / WEIGHTS)
    return weights[f"{LAYER}.mosld_mixture.A"], weights[f"{LAYER}.mosld_mixture.B"]


def lora(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    weights = load_file(folder / WEIGHTS)
    return weights[f"{LAYER}.lora_A.weight"], weights[f"{LAYER}.lora_B.weight"]


@pytest.fixture(scope="module")
def frozen(toy_root, tmp_path_factory) -> Path:
    """A finished run whose experts stayed as stage 1 left them."""
    run = tmp_path_factory.mktemp("moa") / "frozen"
    assert train_command.main(command(toy_root, run, "method.train_experts=false")) == 0
    return run


def test_frozen_experts_equal_the_loras_of_stage_1(frozen):
    A, B = bank(frozen)
    for index, task in enumerate(["obqa", "arc_e"]):
        expert = slice(index * RANK, (index + 1) * RANK)
        lora_A, lora_B = lora(frozen / "experts" / task / "adapter")
        assert lora_B.any()
        assert torch.equal(A[expert], lora_A)
        assert torch.equal(B[:, expert], lora_B)


def test_experts_train_in_stage_2_by_default(toy_root, tmp_path):
    assert train_command.main(command(toy_root, tmp_path / "run")) == 0
    A, _ = bank(tmp_path / "run")
    lora_A, _ = lora(tmp_path / "run" / "experts" / "obqa" / "adapter")
    assert not torch.equal(A[:RANK], lora_A)


def test_routing_accuracy_is_reported_for_every_task(frozen):
    accuracy = json.loads((frozen / "results.json").read_text())["routing_accuracy"]
    assert sorted(accuracy) == ["arc_e", "obqa"]
    for entry in accuracy.values():
        assert entry["n"] > 0
        assert 0 <= entry["per_layer"] <= 1
        assert 0 <= entry["vote"] <= 1


def test_given_adapter_replaces_stage_1(frozen, toy_root, tmp_path, capsys):
    given = frozen / "experts" / "arc_e"
    run = tmp_path / "run"
    more = [f"method.experts_from={{arc_e: '{given}'}}", "method.train_experts=false"]
    assert train_command.main(command(toy_root, run, *more)) == 0
    assert "the expert of obqa" in (log := (run / "train.log").read_text())
    assert "the expert of arc_e" not in log
    assert torch.equal(bank(run)[1][:, RANK:], lora(given / "adapter")[1])


def test_given_adapter_of_another_scale_makes_the_same_update(frozen, toy_root, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(frozen / "experts" / "arc_e" / "adapter", given)
    config = json.loads((given / "adapter_config.json").read_text())
    (given / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 4 * config["lora_alpha"]}))
    more = [f"method.experts_from={{arc_e: '{given}'}}", "method.train_experts=false"]
    assert train_command.main(command(toy_root, tmp_path / "run", *more)) == 0
    assert torch.equal(bank(tmp_path / "run")[1][:, RANK:], 4 * lora(given)[1])


def assert_added(run: Path, first: Path, task: str) -> None:
    """The two experts of the first run are unchanged, and the third is the LoRA of the added task."""
    (A, B), (first_A, first_B) = bank(run), bank(first)
    added_A, added_B = lora(run / "experts" / task / "adapter")
    assert added_B.any()
    assert torch.equal(A, torch.cat([first_A, added_A]))
    assert torch.equal(B, torch.cat([first_B, added_B], dim=1))


@pytest.fixture(scope="module")
def extended(frozen, toy_root) -> Path:
    run = frozen.parent / "extended"
    more = ["method.add_task=csqa", f"method.from_run={frozen}"]
    assert train_command.main(command(toy_root, run, *more, tasks="obqa,arc_e,csqa")) == 0
    return run


def test_added_task_leaves_the_other_experts_bit_equal(frozen, extended):
    assert_added(extended, frozen, "csqa")
    assert not (extended / "experts" / "obqa").exists()


def test_generated_task_is_added_to_multiple_choice_tasks(frozen, mixed_root, tmp_path):
    run = tmp_path / "run"
    more = ["method.add_task=gsm8k", f"method.from_run={frozen}"]
    assert train_command.main(command(mixed_root, run, *more, tasks="obqa,arc_e,gsm8k")) == 0
    assert_added(run, frozen, "gsm8k")
    results = json.loads((run / "results.json").read_text())
    assert list(results["scores"]) == ["obqa", "arc_e", "gsm8k"]
    assert results["routing_accuracy"]["gsm8k"]["n"] == results["scores"]["gsm8k"]["n"] == 8


def test_extended_run_is_scored_without_the_first_run(extended, frozen, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(extended, moved)
    hidden = frozen.rename(frozen.with_name("hidden"))
    try:
        assert eval_command.main([f"run={moved}"]) == 0
    finally:
        hidden.rename(frozen)
    before, after = (
        json.loads((moved / p / "results.json").read_text()) for p in ("", evaluation_of(moved, "mixture"))
    )
    assert after["scores"] == before["scores"]
    assert sorted(after["routing_accuracy"]) == ["arc_e", "csqa", "obqa"]


def test_run_interrupted_in_stage_1_resumes_to_the_same_weights(frozen, toy_root, tmp_path, monkeypatch):
    run, arguments = tmp_path / "run", command(toy_root, tmp_path / "run", "method.train_experts=false")
    whole, calls = Loop.run, []

    def interrupted(loop: Loop):
        calls.append(loop)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", interrupted)
        assert train_command.main(arguments) == 75
    assert train_command.main(arguments) == 0
    assert (run / "train.log").read_text().count("the expert of obqa") == 1
    assert (run / "adapter" / WEIGHTS).read_bytes() == (frozen / "adapter" / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["method.top_k=2"], "method.top_k=2"),
        (["method.targets=block"], "single layers"),
        (["method.add_task=csqa"], "needs method.from_run"),
        (["method.from_run=nowhere"], "needs method.add_task"),
        (["method.from_run=nowhere", "method.add_task=csqa"], "holds no finished mixture of domains"),
        (["method.experts_from={obqa: nowhere}"], "nowhere holds no LoRA adapter"),
        (["method.experts_from={race: nowhere}"], "race is no expert here"),
        (["method.domains=[obqa]"], "arc_e without an expert"),
    ],
)
def test_wrong_option_is_rejected_before_a_model_loads(more, words, toy_root, tmp_path, capsys):
    assert train_command.main(command(toy_root, tmp_path / "run", *more)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_task_is_not_added_twice_nor_without_rows(frozen, toy_root, tmp_path, capsys):
    more = [f"method.from_run={frozen}", "method.add_task=obqa"]
    assert train_command.main(command(toy_root, tmp_path / "run", *more)) == 2
    assert "has an expert of that name already" in capsys.readouterr().err
    more = [f"method.from_run={frozen}", "method.add_task=csqa"]
    assert train_command.main(command(toy_root, tmp_path / "run", *more)) == 2
    assert "set data.tasks=[obqa,arc_e,csqa]" in capsys.readouterr().err
