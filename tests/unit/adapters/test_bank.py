"""The expert bank against loops over experts in forward and gradients, to the last digits of float64."""

import pytest
import torch

from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig
from tests.helpers import naive
from tests.helpers.small_layers import EXPERTS, IN, RANK, SCALE, assert_same, context, mixture, tokens

TIGHT = {"rtol": 1e-11, "atol": 1e-11}  # float64 without a router in fp32


@pytest.mark.parametrize("where", ["A", "B", "x", "none"])
@pytest.mark.parametrize("share", ["A", "B", "none"])
def test_the_bank_equals_a_loop_over_tokens_and_experts(share, where):
    """A defect of other implementations: gradient of A scaled wrongly by the dropout mask."""
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
