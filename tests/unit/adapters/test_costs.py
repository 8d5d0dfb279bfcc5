"""Costs of adapters, counted and not timed: operators, bytes kept for backward, reads by the host."""

import dataclasses
from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import mosld
from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig
from mosld.adapters.layers import FeedForwardMixture
from mosld.adapters.load_balancing import balance_loss
from mosld.adapters.tuner import MosldModel
from mosld.config.groups import model_config
from mosld.distributed.processes import processes
from mosld.training.step import Stepper
from tests.helpers.counting import DeviceWaits, Operators, host_reads, saved_bytes
from tests.helpers.small_layers import config_of, context, tokens
from tests.helpers.toy_runs import examples_of, stepper_of

MIXTURES = ["mosl", "mosld", "mosld_b", "mola", "molora", "sira", "hydralora"]
WIDE, TOKENS = 4096, 2048  # of LLaMA-2-7B
# Kernels of one adapted linear layer, forward and backward. A change that needs more says why.
MOST_KERNELS = {"mosl": 28, "mosld": 33, "mosld_b": 33, "mola": 35, "molora": 20, "sira": 53, "hydralora": 21}


def kernels(method: str, experts: int) -> Operators:
    """The operators of one adapted layer, forward and backward, on a batch with a pad."""
    config = config_of(method)
    layer = Mixture(12, 10, experts, config).train()
    x = tokens(dtype=torch.float32)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    state = context(mask_BS=mask)
    with Operators() as counted:
        layer(x, state)[0].sum().backward()
    return counted


@pytest.mark.parametrize("method", MIXTURES)
def test_more_experts_run_no_more_kernels(method):
    few, many = kernels(method, 4), kernels(method, 64)
    assert few.counts == many.counts
    assert few.views == many.views


def test_more_experts_of_a_feed_forward_block_run_no_more_kernels():
    """It has a slot for each expert that a token takes, not for each that it can choose."""

    def count(experts: int) -> Operators:
        block = nn.Module()
        block.gate_proj, block.up_proj, block.down_proj = nn.Linear(12, 20), nn.Linear(12, 20), nn.Linear(20, 12)
        block.act_fn = nn.SiLU()
        layer = FeedForwardMixture(block, experts, config_of("mixlora")).train()
        with Operators() as counted:
            layer(block, tokens(dtype=torch.float32), context())[0].sum().backward()
        return counted

    assert count(4).counts == count(64).counts


@pytest.mark.parametrize("method", MIXTURES)
def test_an_adapted_layer_runs_at_most_the_known_number_of_kernels(method):
    counted = kernels(method, 5).counts
    assert counted.total() <= MOST_KERNELS[method], counted


def test_a_layer_with_many_experts_runs_nine_products():
    """Router, A and B: each once forward and twice backward, for weight and input."""
    counts = kernels("mosld", 64).counts
    assert counts["mm"] + counts["addmm"] + counts["addmm_"] + counts["bmm"] == 9


def test_more_modules_run_no_more_kernels_in_the_balance_loss():
    def count(layers: int) -> int:
        shape = {**model_config("tiny", {}).shape, "num_hidden_layers": layers}
        base = mosld.load_base("tiny", shape=shape)[0]
        model = mosld.adapt(base, "mosld", allocation=4, seed=0).train()
        tuner = model.base_model
        assert isinstance(tuner, MosldModel)
        ids = torch.arange(12).view(2, 6)
        with tuner.context.recording() as routings:
            tuner.model(input_ids=ids)
        with Operators() as counted:
            balance_loss(routings, None)
        return counted.counts.total()

    assert count(2) == count(6)


def adapted_linear(config, dtype):
    """A frozen linear layer of the width of LLaMA-2-7B with an adapter; few outputs, which are not kept."""
    torch.manual_seed(0)
    model = get_peft_model(nn.ModuleDict({"q_proj": nn.Linear(WIDE, 64, bias=False, dtype=dtype)}), config)
    return model.train(), model.base_model.model["q_proj"]


def kept(config, dtype) -> int:
    model, layer = adapted_linear(config, dtype)
    x = torch.randn(1, TOKENS, WIDE, dtype=dtype, requires_grad=True)
    with saved_bytes(model) as total:
        layer(x).sum()
    return total[0]


def lora(dropout=0.0):
    return LoraConfig(r=8, lora_alpha=16, lora_dropout=dropout, target_modules=["q_proj"])


def ours(method: str) -> MosldConfig:
    config = config_of(method)
    config.r, config.alpha, config.experts, config.target_modules, config.task_type = 8, 16.0, 5, ["q_proj"], None
    return config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", ["mosl", "mosld"])
def test_backward_keeps_at_most_three_percent_more_than_lora(method, dtype):
    assert kept(ours(method), dtype) <= 1.03 * kept(lora(), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward_keeps_less_than_lora_with_dropout_on_its_input(dtype):
    assert kept(ours("mosld"), dtype) < kept(lora(0.05), dtype)


@pytest.mark.parametrize("method", MIXTURES)
def test_backward_keeps_the_input_once_in_its_dtype_and_a_byte_per_masked_element(method):
    few, mask = 0.06 * TOKENS * WIDE * 4, TOKENS * WIDE * (method == "mola")  # few numbers of rank and experts a token
    for dtype in (torch.float32, torch.bfloat16):
        assert kept(ours(method), dtype) <= TOKENS * WIDE * dtype.itemsize + few + mask


def stepper(method: str, attention: str = "auto", **options) -> Stepper:
    model = mosld.adapt(mosld.load_base("tiny", attention=attention)[0], method, seed=0, **options)
    return stepper_of(model, max_norm=1.0, domains=options.get("domains", ()))


EXAMPLES = examples_of(9, 12, 200, 300)


@pytest.mark.parametrize("method", ["lora", *MIXTURES, "mixlora", "moa"])
def test_a_step_reads_from_the_device_once(method):
    options = {"domains": ["arc_e", "b"]} if method == "moa" else {}
    taken = stepper(method, **options)
    # AdamW counts its steps on the host, wherever the weights are: reading them waits for nothing.
    taken.engine.optimizer.step = lambda: None
    with host_reads() as reads:
        taken.step(EXAMPLES, 2, 1e-3, 0)
    assert reads == ["tolist"]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("width", "batches"), [(4, 1), (1, 4)])
def test_the_reads_of_a_step_do_not_grow_with_its_micro_batches(width, batches, attention):
    taken = stepper("mosld", attention)
    taken.engine.optimizer.step = lambda: None
    assert len(taken.batches.split(EXAMPLES, width)) == batches
    with host_reads() as reads:
        taken.step(EXAMPLES, width, 1e-3, 0)
    assert reads == ["tolist"]


def device_waits(method: str, attention: str, packed: bool | None = None) -> list[str]:
    """What would make the host wait for a GPU in the second of two steps."""
    options = {"domains": ["arc_e", "b"]} if method == "moa" else {}
    model = mosld.adapt(mosld.load_base("tiny", attention=attention)[0], method, seed=0, **options)
    one = stepper_of(
        model.to("meta"), torch.optim.SGD(model.parameters()), max_norm=1.0, domains=options.get("domains", ()),
        processes=dataclasses.replace(processes(), device=torch.device("meta")),
    )  # fmt: skip
    one.autocast = nullcontext  # it does not know the meta device
    if packed is not None:
        one.batches.packed = packed
    with DeviceWaits():
        one.step(EXAMPLES, 2, 1e-3, 0, upcoming=EXAMPLES)
    with DeviceWaits() as waits:
        one.step(EXAMPLES, 2, 1e-3, 1, upcoming=EXAMPLES)
    return waits.calls


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("method", ["lora", *MIXTURES, "mixlora", "moa", "full"])
@pytest.mark.slow
def test_a_step_on_a_device_waits_for_it_once(method, attention):
    """For its losses, before the update; at that time the next step's first micro-batch is on its way."""
    assert device_waits(method, attention) == ["tolist"]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padded_rows_do_not_wait_for_the_device_either(attention):
    assert device_waits("mosld", attention, packed=False) == ["tolist"]


def test_prefix_tuning_waits_where_peft_moves_the_mask_and_the_indices_of_its_prefix():
    """PEFT's own copies, for each of the two micro-batches; a release without them may lower the number."""
    assert device_waits("prefix", "sdpa") == ["copy", "copy", "copy", "copy", "tolist"]
