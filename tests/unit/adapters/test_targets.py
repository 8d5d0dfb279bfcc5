"""Which layers each value of method.targets adapts, and that the mixture works there with every shared part."""

import pytest
import torch

import mosld
from mosld.adapters.layers import MixtureLayer
from mosld.common.errors import UserError

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [25, 26, 27, 28, 29, 30]])
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
FFN = {"gate_proj", "up_proj", "down_proj"}
TARGETS = {"qv": {"q_proj", "v_proj"}, "attention": ATTENTION, "ffn": FFN, "all": ATTENTION | FFN, "block": {"mlp"}}


@pytest.mark.parametrize("targets", TARGETS)
def test_targets_name_the_layers(targets, tiny):
    model = mosld.adapt(tiny, "mosl", targets=targets)
    adapted = [name for name, module in model.named_modules() if isinstance(module, MixtureLayer)]
    assert {name.rpartition(".")[2] for name in adapted} == TARGETS[targets]
    assert len(adapted) == 4 * len(TARGETS[targets])  # in each of four layers


def moves(model, **inputs):
    """Whether one step from the base model's own answer changes it."""
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
def test_mosl_starts_as_the_base_and_trains_on_every_target_with_every_share(targets, share, tiny):
    assert moves(mosld.adapt(tiny, "mosl", targets=targets, share=share, seed=0))


@pytest.mark.parametrize("router", ["dense", "capacity"])
def test_every_router_by_tokens_works_on_the_block(router, tiny):
    assert moves(mosld.adapt(tiny, "mosl", targets="block", router=router, seed=0))


@pytest.mark.parametrize("targets", ["qv", "attention", "ffn", "all"])
def test_a_mixture_of_domains_works_on_every_single_layer(targets, tiny):
    model = mosld.adapt(tiny, "moa", targets=targets, domains=["a", "b"], seed=0)
    assert moves(model, domain=torch.tensor([0, 1]))


def test_a_layer_that_the_model_lacks_is_named(tiny):
    for layer in tiny.model.layers:
        layer.self_attn.query, layer.self_attn.q_proj = layer.self_attn.q_proj, None
        del layer.self_attn.q_proj
    with pytest.raises(UserError, match="the model has no layer called q_proj"):
        mosld.adapt(tiny, "mosl")
