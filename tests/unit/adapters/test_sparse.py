"""Many experts: the grouped product against the dense one, forward and gradients, and when it is taken."""

import pytest
import torch
from torch.nn.functional import linear

from mosld.adapters import bank as bank_module
from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig
from mosld.adapters.kernels.grouped import up_by_expert, use_grouped_mm
from tests.helpers.small_layers import assert_same, context

ROUNDING = {"rtol": 1e-5, "atol": 1e-5}


def dense(z, gates, B):
    """The sum with all experts, of which most have gate 0."""
    return linear((gates.unsqueeze(-1) * z).flatten(-2), B)


def layer(share: str, k: int, router: str = "topk", experts: int = 32, **options) -> Mixture:
    config = MosldConfig(
        r=32, alpha=8.0, experts=experts, share=share, top_k=k, router=router, dropout=0.0, dropout_on="none", **options
    )
    torch.manual_seed(0)
    made = Mixture(12, 20, experts, config)
    torch.nn.init.normal_(made.B)
    return made


@pytest.mark.parametrize("router", ["topk", "dense", "capacity"])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("share", ["A", "none"])
def test_it_equals_the_product_with_all_experts(share, k, router, monkeypatch):
    """With the router in front of it: all that trains has the same gradient."""
    made = layer(share, k, router)
    x = torch.randn(3, 7, 12, requires_grad=True)
    leaves = {"A": made.A, "B": made.B, "router": made.router.weight, "x": x}
    assert use_grouped_mm(made.B, 32, 32, k)
    ours = made(x, context())[0]
    monkeypatch.setattr(bank_module, "use_grouped_mm", lambda *_: False)
    if k == 1 and router == "topk":  # its one gate is 1: nothing reaches the router
        del leaves["router"]
    assert_same(ours, made(x, context())[0], leaves, **ROUNDING)


def test_slots_share_what_was_projected_once():
    """MixLoRA's slots: z has no slot of its own and is broadcast."""
    z, B = torch.randn(2, 5, 1, 32, 8, requires_grad=True), torch.randn(12, 32 * 8, requires_grad=True)
    gates = torch.nn.functional.one_hot(torch.randint(0, 32, (2, 5, 3)), 32).float()
    assert_same(up_by_expert(z, gates, B, 2), dense(z, gates, B), {"z": z, "B": B}, **ROUNDING)


def test_a_token_without_an_expert_gets_nothing():
    gates = torch.zeros(4, 32)
    gates[0, 3] = 1.0
    found = up_by_expert(torch.randn(4, 1, 8), gates, torch.randn(12, 32 * 8), 2)
    assert found[0].any()
    assert not found[1:].any()


@pytest.mark.parametrize(
    ("experts", "rank", "k", "taken"),
    [
        (5, 8, 2, False),
        (16, 8, 2, False),
        (32, 8, 2, False),
        (64, 8, 2, True),
        (64, 64, 2, True),
        (85, 3, 2, False),
    ],
)
def test_it_is_taken_where_it_was_measured_to_win(experts, rank, k, taken):
    assert use_grouped_mm(torch.empty(1), experts, rank, k) is taken


def test_nobody_measured_it_on_an_accelerator():
    assert not use_grouped_mm(torch.empty(1, device="meta"), 64, 64, 2)


def test_the_experts_that_no_token_took_have_a_gradient_of_zero():
    made = layer("A", 1)
    made(torch.randn(1, 2, 12), context())[0].sum().backward()
    assert made.B.grad is not None
    by_expert = made.B.grad.unflatten(-1, (32, 32)).abs().sum((0, 2))
    assert (by_expert > 0).sum() <= 2
