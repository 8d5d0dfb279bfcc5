"""Which layers are adapted, and with how many experts."""

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import MixtralConfig, MixtralForCausalLM

import mosld
from mosld.adapters.config import experts_per_layer
from mosld.adapters.layers import MixtureFeedForward, MixtureLayer, MixtureLinear
from mosld.common.errors import UserError

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [25, 26, 27, 28, 29, 30]])
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
FFN = {"gate_proj", "up_proj", "down_proj"}
TARGETS = {"qv": {"q_proj", "v_proj"}, "attention": ATTENTION, "ffn": FFN, "all": ATTENTION | FFN, "block": {"mlp"}}


@pytest.mark.parametrize(
    ("shape", "depth", "experts"),
    [
        ([8, 6, 4, 2], 32, [8] * 8 + [6] * 8 + [4] * 8 + [2] * 8),
        ([8, 6, 4, 2], 30, [8] * 8 + [6] * 7 + [4] * 8 + [2] * 7),
        ([3, 1, 2], 3, [3, 1, 2]),
        (5, 2, [5, 5]),
    ],
)
def test_a_shape_is_stretched_over_the_depth(shape, depth, experts):
    assert experts_per_layer(shape, depth) == experts


def test_each_layer_has_the_number_of_experts_of_its_quarter(tiny):
    model = mosld.adapt(tiny, "mosl", allocation="triangle")
    counts = [m.mosld_mixture["default"].experts for m in model.modules() if isinstance(m, MixtureLinear)]
    assert counts == [8, 8, 6, 6, 4, 4, 2, 2]  # q and v of four layers


@pytest.mark.parametrize(("method", "experts"), [("mixlora", 8), ("sira_authors", 16), ("molora_authors", 10)])
def test_a_method_with_its_own_number_of_experts_has_it_in_every_layer(method, experts, tiny):
    kind = MixtureFeedForward if method == "mixlora" else MixtureLinear
    model = mosld.adapt(tiny, method)
    routers = [m.mosld_mixture["default"].router for m in model.modules() if isinstance(m, kind)]
    assert {len(router.weight) for router in routers} == {experts}


def trains(model, **inputs):
    """Whether a model that starts as the base differs from it after one step."""
    base = mosld.load_base("tiny")[0](IDS).logits
    assert torch.equal(model.eval()(IDS).logits, base)
    model.train()(input_ids=IDS, labels=IDS, **inputs).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.sub_(0.1 * parameter.grad)
    return not torch.equal(model.eval()(IDS).logits, base)


@pytest.mark.parametrize("share", ["A", "B", "none"])
@pytest.mark.parametrize("targets", TARGETS)
def test_every_target_with_every_share_adapts_its_layers_and_trains(targets, share, tiny):
    model = mosld.adapt(tiny, "mosl", targets=targets, share=share, seed=0)
    adapted = [name for name, module in model.named_modules() if isinstance(module, MixtureLayer)]
    assert {name.rpartition(".")[2] for name in adapted} == TARGETS[targets]
    assert len(adapted) == 4 * len(TARGETS[targets])  # in each of four layers
    assert trains(model)


@pytest.mark.parametrize("method", ["lora", "mosld", "hydralora", "sira", "moa"])
@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (["q_proj", "o_proj"], {"q_proj", "o_proj"}),
        (["self_attn.k_proj"], {"k_proj"}),
        (r".*\.(up|v)_proj", {"up_proj", "v_proj"}),
        ("all-linear", ATTENTION | FFN),
    ],
)
def test_a_list_a_regular_expression_and_all_linear_choose_modules(method, targets, adapted, tiny):
    options = {"domains": ["a", "b"]} if method == "moa" else {}
    model = mosld.adapt(tiny, method, targets=targets, seed=0, **options)
    names = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    assert {name.rpartition(".")[2] for name in names} == adapted
    assert len(names) == 4 * len(adapted)  # in each of four layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["q_prj"]}, r"method.targets=\[q_prj\]: the model has no layer called q_prj; .* q_proj"),
        ({"targets": r".*\.q"}, "the model has no layer called"),
        ({"targets": "(q"}, "no regular expression"),
        ({"targets": "qkv"}, r"write \[qkv\]"),
        ({"targets": []}, "names no module"),
        ({"targets": ["v_proj"], "plain_targets": "qv"}, "overlaps"),
        ({"targets": "all-linear", "plain_targets": "qv"}, "as a name or a list"),
    ],
)
def test_targets_that_cannot_be_are_refused(options, message, tiny):
    with pytest.raises(UserError, match=message):
        mosld.adapt(tiny, "mosld", **options)


def test_what_peft_refuses_names_our_key():
    shape = MixtralConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"lora_dropout != 0.*; lora_dropout is method\.dropout"):
        mosld.adapt(MixtralForCausalLM(shape), "lora", targets="all-linear", dropout=0.1)


def test_a_list_may_stand_beside_plain_targets(tiny):
    model = mosld.adapt(tiny, "mosld", targets=["up_proj"], plain_targets="qv")
    routed = {
        name.rpartition(".")[2]: module.mosld_mixture["default"].router is not None
        for name, module in model.named_modules()
        if isinstance(module, MixtureLinear)
    }
    assert routed == {"up_proj": True, "q_proj": False, "v_proj": False}


@pytest.mark.parametrize("router", ["dense", "capacity"])
def test_every_router_by_token_trains_on_the_block(router, tiny):
    assert trains(mosld.adapt(tiny, "mosl", targets="block", router=router, seed=0))


@pytest.mark.parametrize("targets", ["qv", "attention", "ffn", "all"])
def test_a_mixture_of_domains_trains_on_every_target_of_single_layers(targets, tiny):
    model = mosld.adapt(tiny, "moa", targets=targets, domains=["a", "b"], seed=0)
    assert trains(model, domain=torch.tensor([0, 1]))


def test_a_model_without_the_target_layer_is_refused_by_its_name(tiny):
    for layer in tiny.model.layers:
        layer.self_attn.query, layer.self_attn.q_proj = layer.self_attn.q_proj, None
        del layer.self_attn.q_proj
    with pytest.raises(UserError, match="the model has no layer called q_proj"):
        mosld.adapt(tiny, "mosl")
