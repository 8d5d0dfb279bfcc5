"""The trial before step 1: layers that no gradient reaches are named, and where it reaches none the run ends."""

from pathlib import Path

import pytest
from torch.nn.functional import linear

import mosld
from mosld.common.errors import UserError
from mosld.runs.console import Console
from mosld.training.memory import fit_micro_batch
from tests.helpers.methods import ROWS, over
from tests.helpers.toy_runs import small_examples, small_stepper, stepper_of


def try_out(stepper, log: Path) -> str:
    assert fit_micro_batch(stepper, small_examples(), 2, 4, Console(log)) == 2
    assert all(weight.grad is None for weight in stepper.model.parameters())
    return log.read_text()


def base_that_reads_past_adapters():
    """A model that multiplies with the weights of its last layer's down_proj itself, as fused kernels do."""
    base = mosld.load_base("tiny")[0]
    block = base.model.layers[-1].mlp
    block.forward = lambda x: linear(block.act_fn(block.gate_proj(x)) * block.up_proj(x), block.down_proj.weight)
    return base


@over(ROWS)
def test_a_gradient_reaches_every_layer_of_every_method(row, tmp_path):
    assert try_out(small_stepper(row.name), tmp_path / "log") == ""


@pytest.mark.parametrize("method", ["lora", "mosld"])
def test_layers_that_are_read_past_the_adapter_are_named(method, tmp_path):
    base = base_that_reads_past_adapters()
    last = len(base.model.layers) - 1
    said = try_out(stepper_of(mosld.adapt(base, method, targets="all")), tmp_path / "log")
    assert f"no gradient reaches 1 of the trained layers, so they stay as they are: model.layers.{last}.mlp" in said


def test_at_most_three_layers_are_named_and_the_others_counted(tmp_path):
    base = mosld.load_base("tiny")[0]
    for layer in base.model.layers[:2]:
        layer.mlp.forward = lambda x: 0 * x
    said = try_out(stepper_of(mosld.adapt(base, "lora", targets="ffn")), tmp_path / "log")
    assert "no gradient reaches 6 of the trained layers" in said
    assert "model.layers.0.mlp.gate_proj, model.layers.0.mlp.up_proj, model.layers.0.mlp.down_proj (3 more)" in said


@pytest.mark.parametrize("method", ["lora", "mosld"])
def test_a_run_that_could_train_nothing_ends(method, tmp_path):
    base = base_that_reads_past_adapters()
    targets = rf"model\.layers\.{len(base.model.layers) - 1}\.mlp\.down_proj"
    stepper = stepper_of(mosld.adapt(base, method, targets=targets))
    with pytest.raises(UserError, match=r"no gradient reaches the layers of method\.targets"):
        try_out(stepper, tmp_path / "log")
