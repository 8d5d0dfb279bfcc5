"""MixLoRA's block against sum_i g_i E_i(x) with every E_i computed alone, and the single LoRA on other layers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import mosld
from mosld.adapters.layers import FeedForwardMixture
from mosld.common.errors import UserError
from tests.helpers import naive
from tests.helpers.small_layers import EXPERTS, RANK, SCALE, assert_same, config_of, context, tokens

WIDTH, INNER = 6, 9
PARTS = ("gate", "up", "down")


def base_block(dtype=torch.float64):
    torch.manual_seed(3)
    layers = {
        "gate_proj": nn.Linear(WIDTH, INNER, bias=False, dtype=dtype),
        "up_proj": nn.Linear(WIDTH, INNER, bias=False, dtype=dtype),
        "down_proj": nn.Linear(INNER, WIDTH, bias=False, dtype=dtype),
    }
    for layer in layers.values():
        layer.requires_grad_(False)
    return SimpleNamespace(**layers, act_fn=nn.SiLU())


def mixture(block, trained=True, **options):
    torch.manual_seed(0)
    layer = FeedForwardMixture(block, EXPERTS, config_of("mixlora", **options))
    if trained:
        nn.init.normal_(layer.router.weight)
        for part in PARTS:
            nn.init.normal_(getattr(layer, part).B, std=0.3)
    return layer.double()


def reference(block, ours, x, keep=lambda part, name: 1.0):
    weights = {part: getattr(block, f"{part}_proj").weight for part in PARTS}
    banks = {}
    for part in PARTS:
        bank = getattr(ours, part)
        share = bank.config.share
        banks[part] = naive.pairs(bank.A * keep(part, "A"), bank.B * keep(part, "B"), RANK, share, EXPERTS)
    gates = [naive.top_k_gates(naive.probabilities(ours.router.weight, token), 2) for token in x.flatten(0, 1)]
    outputs = [
        naive.feed_forward(token, gate, weights, banks, SCALE)
        for token, gate in zip(x.flatten(0, 1), gates, strict=True)
    ]
    return torch.stack(outputs).view_as(x)


def leaves(ours, x):
    return {"x": x} | dict(ours.named_parameters())


@pytest.mark.parametrize("share", ["A", "B", "none"])
def test_the_block_equals_the_gated_sum_of_whole_blocks(share):
    block = base_block()
    ours, x = mixture(block, share=share), tokens(2, 4, WIDTH)
    assert_same(ours(block, x, context())[0], reference(block, ours, x), leaves(ours, x))


@pytest.mark.parametrize("where", ["A", "B"])
def test_dropout_masks_the_weights_of_each_projection(where):
    block = base_block()
    ours, x = mixture(block, dropout=0.3, dropout_on=where).train(), tokens(2, 4, WIDTH)
    torch.manual_seed(7)
    masks = {part: naive.dropout_mask(getattr(getattr(ours, part), where).shape, 0.3) for part in PARTS}
    theirs = reference(block, ours, x, lambda part, name: masks[part] if name == where else 1.0)
    torch.manual_seed(7)
    assert_same(ours(block, x, context())[0], theirs, leaves(ours, x))


def test_an_untrained_block_is_bit_equal_to_the_base():
    block = base_block(torch.float32)
    ours, x = mixture(block, trained=False).float(), torch.randn(2, 4, WIDTH)
    base = block.down_proj(block.act_fn(block.gate_proj(x)) * block.up_proj(x))
    assert torch.equal(ours(block, x, context())[0], base)


def test_the_base_projections_run_once_for_all_experts():
    block, calls = base_block(), []
    for name in ("gate_proj", "up_proj", "down_proj"):
        layer = getattr(block, name)
        layer.register_forward_hook(lambda _, args, __, name=name: calls.append((name, args[0].numel())))
    x = tokens(2, 4, WIDTH)
    mixture(block)(block, x, context())
    assert calls == [("gate_proj", 8 * WIDTH), ("up_proj", 8 * WIDTH), ("down_proj", 8 * INNER)]


def test_dropout_of_the_input_differs_by_bank_and_spares_the_router():
    block = base_block(torch.float32)
    ours, x = mixture(block, dropout=0.5, dropout_on="x").float().train(), torch.randn(2, 4, WIDTH)
    assert not torch.equal(ours.gate.down_weight(x)[1], ours.up.down_weight(x)[1])
    dropping = ours(block, x, context())[1].probs_BSE
    assert torch.equal(dropping, ours.eval()(block, x, context())[1].probs_BSE)


def test_a_block_has_one_router_and_attention_a_single_lora(tiny):
    model = mosld.adapt(tiny, "mixlora")
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sum(".mlp." in name and "router" in name for name in names) == 4
    assert not any("self_attn" in name and "router" in name for name in names)
    q = model.base_model.model.model.layers[0].self_attn.q_proj.mosld_mixture["default"]
    assert (q.experts, q.A.shape[0]) == (1, 8)


def test_the_single_lora_equals_s_B_A_x(tiny):
    model = mosld.adapt(tiny, "mixlora")
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    lora = layer.mosld_mixture["default"]
    nn.init.normal_(lora.B)
    x = torch.randn(2, 4, lora.A.shape[1])
    torch.testing.assert_close(layer(x) - layer.base_layer(x), 2.0 * x @ lora.A.T @ lora.B.T, rtol=1e-4, atol=1e-4)


def test_several_adapters_active_at_once_are_refused(tiny):
    model = mosld.adapt(tiny, "mixlora")
    model.add_adapter("second", model.peft_config["default"])
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match="cannot be active at once"):
        model(torch.tensor([[5, 6]]))


def test_a_block_without_gates_is_refused(tiny):
    for layer in tiny.model.layers:
        del layer.mlp.gate_proj
    with pytest.raises(UserError, match=r"layers\.0\.mlp \(.*MLP\) is no gated feed-forward block: .* no gate_proj$"):
        mosld.adapt(tiny, "mixlora")
