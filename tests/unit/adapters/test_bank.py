"""The expert bank against loops over experts in forward and gradients, to the last digits of float64; its dropout."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig
from tests.helpers import naive
from tests.helpers.small_layers import EXPERTS, IN, RANK, SCALE, assert_same, context, mixture, tokens

TIGHT = {"rtol": 1e-11, "atol": 1e-11}  # float64 without a router in fp32


@pytest.mark.parametrize("where", ["A", "B", "x", "none"])
@pytest.mark.parametrize("share", ["A", "B", "none"])
def test_the_bank_equals_a_loop_over_tokens_and_experts(share, where):
    ours = mixture(share=share, dropout=0.3 if where != "none" else 0.0, dropout_on=where).train()
    x, gates = tokens(), torch.rand(2, 4, EXPERTS, dtype=torch.float64, requires_grad=True)
    dropped = {"A": ours.A, "B": ours.B, "x": x}
    if where != "none":  # the same seed draws the same mask
        torch.manual_seed(7)
        dropped[where] = dropped[where] * naive.dropout_mask(dropped[where].shape, 0.3)
    bank = naive.pairs(dropped["A"], dropped["B"], RANK, share, EXPERTS)
    theirs = naive.mixture(dropped["x"].flatten(0, 1), gates.flatten(0, 1), bank, SCALE).view(2, 4, -1)
    torch.manual_seed(7)
    assert_same(ours.up(ours.down(x), gates), theirs, {"A": ours.A, "B": ours.B, "x": x, "gates": gates}, **TIGHT)


@pytest.mark.parametrize("where", ["A", "B"])
def test_the_gradient_has_the_mask_and_scale_of_the_weight(where):
    """A defect of other implementations: gradient of A scaled wrongly by the dropout mask."""
    ours = mixture(dropout=0.4, dropout_on=where, share="A").train()
    x = tokens()
    torch.manual_seed(7)
    ours(x, context())[0].sum().backward()
    torch.manual_seed(7)
    mask = naive.dropout_mask(getattr(ours, where).shape, 0.4)
    free = mixture(share="A")
    setattr(free, where, torch.nn.Parameter((getattr(free, where) * mask).detach()))
    free(x, context())[0].sum().backward()
    torch.testing.assert_close(getattr(ours, where).grad, getattr(free, where).grad * mask, **TIGHT)


@pytest.mark.parametrize("where", ["A", "B"])
def test_the_mask_keeps_the_stated_share_and_scales_the_update(where):
    ours = mixture(dropout=0.3, dropout_on=where).train()
    weight = getattr(ours, where)
    kept = torch.stack([ours._masked(where, weight) != 0 for _ in range(400)]).double()
    assert abs(kept.mean().item() - 0.7) < 0.02  # 400 masks of at least 36 elements: a standard error below .004
    mask = naive.dropout_mask(weight.shape, 0.3)
    scale = mask.max().item()
    assert scale == pytest.approx(1 / 0.7, abs=2e-5)
    masked = ours._masked(where, weight)
    assert torch.equal(masked[masked != 0], weight[masked != 0])
    whole, x = mixture(dropout=0.0), tokens()
    setattr(whole, where, torch.nn.Parameter(masked.detach()))
    ours._masked = lambda name, weight: masked if name == where else weight
    torch.testing.assert_close(ours(x, context())[0], scale * whole(x, context())[0], **TIGHT)


@pytest.mark.parametrize("where", ["A", "B"])
def test_every_element_is_dropped_at_the_same_rate(where):
    ours = mixture(dropout=0.5, dropout_on=where).train()
    weight = getattr(ours, where)
    kept = torch.stack([ours._masked(where, weight) != 0 for _ in range(1000)]).double().mean(0)
    assert 0.4 < kept.min().item() < kept.max().item() < 0.6  # six standard errors of .016


@pytest.mark.parametrize("where", ["A", "B"])
def test_all_tokens_of_a_forward_share_one_mask(where):
    ours = mixture(dropout=0.5, dropout_on=where).train()
    update = ours(tokens(1, 1).expand(2, 6, IN), context())[0]
    torch.testing.assert_close(update, update[:1, :1].expand_as(update), **TIGHT)


@pytest.mark.parametrize("where", ["A", "B"])
def test_each_forward_draws_a_new_mask(where):
    ours, x = mixture(dropout=0.5, dropout_on=where).train(), tokens()
    assert not torch.equal(ours(x, context())[0], ours(x, context())[0])


@pytest.mark.parametrize("where", ["A", "B"])
def test_checkpointing_reruns_the_forward_with_the_same_mask(where):
    ours, x, masks = mixture(dropout=0.5, dropout_on=where).train(), tokens(), []
    original = ours._masked

    def spy(name, weight):
        result = original(name, weight)
        if name == where:
            masks.append(result.detach() != 0)
        return result

    ours._masked = spy
    update = checkpoint(lambda x: ours(x, context())[0], x, use_reentrant=False)
    torch.rand(5)  # the generator has moved on when backward comes
    update.sum().backward()
    assert len(masks) == 2
    assert torch.equal(*masks)


@pytest.mark.parametrize("where", ["A", "B", "x"])
def test_dropout_is_off_in_eval(where):
    """A defect of other implementations: dropout still on after .eval()."""
    dropping, plain, x = mixture(dropout=0.5, dropout_on=where).eval(), mixture().eval(), tokens()
    assert torch.equal(dropping(x, context())[0], plain(x, context())[0])


def test_the_router_sees_the_input_without_dropout():
    dropping, plain, x = mixture(dropout=0.5, dropout_on="x").train(), mixture(), tokens()
    assert torch.equal(dropping(x, context())[1].gates_BSE, plain(x, context())[1].gates_BSE)


@pytest.mark.parametrize(
    ("init", "deviation"), [("gaussian", 1 / 8), ("normal", 0.02), ("kaiming", 1 / (3 * 4096) ** 0.5)]
)
def test_A_starts_with_the_stated_deviation_and_B_at_zero(init, deviation):
    torch.manual_seed(0)
    layer = Mixture(4096, 16, 5, MosldConfig(r=8, experts=5, init=init))
    assert layer.A.std().item() == pytest.approx(deviation, rel=0.05)
    assert not layer.B.any()


@pytest.mark.parametrize(("init", "deviation"), [("normal", 0.02), ("kaiming", 1 / (3 * 4096) ** 0.5)])
def test_the_router_starts_with_the_stated_deviation(init, deviation):
    torch.manual_seed(0)
    layer = Mixture(4096, 16, 8, MosldConfig(experts=8, router_init=init))
    assert layer.router.weight.std().item() == pytest.approx(deviation, rel=0.05)


def test_a_layer_runs_three_products_whatever_the_number_of_experts():
    """A defect of other implementations: A x computed once per expert."""

    def products(experts: int) -> int:
        layer = Mixture(IN, 7, experts, MosldConfig(experts=experts, dropout=0.0))
        with torch.profiler.profile() as profile:
            layer(torch.randn(2, 4, IN), context())
        return sum(event.count for event in profile.key_averages() if event.key in ("aten::mm", "aten::addmm"))

    assert products(2) == products(16) == 3  # router, A, B


def test_a_shared_A_has_one_projection_for_all_experts():
    assert mixture(share="A").down(tokens()).shape == (2, 4, 1, RANK)


@pytest.mark.parametrize("share", ["A", "none"])
def test_an_expert_without_tokens_has_a_gradient_of_zero(share):
    """Zero and not None: DDP needs no find_unused_parameters."""
    ours = mixture(top_k=1, share=share)
    update, routing = ours(tokens(1, 1), context())
    update.sum().backward()
    per_expert = ours.B.grad.unflatten(1, (EXPERTS, RANK)).abs().sum(dim=(0, 2))
    assert ((per_expert > 0) == (routing.gates_BSE[0, 0] > 0)).all()
