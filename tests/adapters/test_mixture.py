"""The mixture of one layer against a loop over tokens and experts, forward and gradients; dropout on A, B and x."""

import pytest
import torch
from naive import naive_mixture
from torch.autograd import grad

from mosld.adapters import Mixture, MosldConfig

IN, OUT, EXPERTS, RANK = 12, 10, 5, 3


def mixture(dtype=torch.float64, **options) -> Mixture:
    torch.manual_seed(0)
    config = MosldConfig(**{"r": RANK, "alpha": 6.0, "experts": EXPERTS, "top_k": 2, "dropout": 0.0, **options})
    made = Mixture(IN, OUT, EXPERTS, config)
    torch.nn.init.normal_(made.B)
    return made.to(dtype)


@pytest.mark.parametrize("share", ["A", "B", "none"])
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_forward_and_gradients_equal_a_loop_over_tokens_and_experts(share, top_k):
    ours = mixture(share=share, top_k=top_k)
    x = torch.randn(2, 4, IN, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 4, OUT, dtype=torch.float64)
    theirs, probs, gates = naive_mixture(x, ours.A, ours.B, ours.router, rank=RANK, alpha=6.0, top_k=top_k, share=share)
    update, routing = ours(x)
    # The router runs in fp32 by design, so the two agree to fp32's rounding.
    torch.testing.assert_close(update, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(routing.probs_BSE.double(), probs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(routing.gates_BSE.double(), gates, rtol=1e-5, atol=1e-6)
    leaves = (x, ours.A, ours.B, ours.router)
    for got, wanted in zip(
        grad((update * weights).sum(), leaves, materialize_grads=True),
        grad((theirs * weights).sum(), leaves, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_mixture_of_one_expert_is_lora():
    ours = Mixture(IN, OUT, 1, MosldConfig(r=RANK, alpha=6.0, experts=1, top_k=1, dropout=0.0))
    torch.nn.init.normal_(ours.B)
    x = torch.randn(2, 4, IN)
    torch.testing.assert_close(ours(x)[0], 2.0 * x @ ours.A.T @ ours.B.T)


def test_an_untrained_mixture_changes_nothing():
    update, _ = Mixture(IN, OUT, EXPERTS, MosldConfig(experts=EXPERTS))(torch.randn(2, 4, IN))
    assert torch.equal(update, torch.zeros(2, 4, OUT))


def test_every_expert_gets_a_gradient_when_tokens_use_them_all():
    ours = mixture(top_k=1)
    ours(torch.randn(8, 16, IN, dtype=torch.float64))[0].sum().backward()
    per_expert = ours.B.grad.unflatten(1, (EXPERTS, RANK)).norm(dim=(0, 2))
    assert (per_expert > 0).all()


def test_an_expert_that_no_token_takes_has_a_gradient_of_zero():
    """Zero and not None: DDP needs no find_unused_parameters."""
    ours = mixture(top_k=1)
    update, routing = ours(torch.randn(1, 1, IN, dtype=torch.float64))
    update.sum().backward()
    per_expert = ours.B.grad.unflatten(1, (EXPERTS, RANK)).abs().sum(dim=(0, 2))
    assert ((per_expert > 0) == (routing.gates_BSE[0, 0] > 0)).all()


@pytest.mark.parametrize("where", ["A", "B"])
def test_weight_dropout_keeps_the_stated_share_and_scales_by_its_inverse(where):
    ours = mixture(dropout=0.3, dropout_on=where).train()
    weight = getattr(ours, where)
    kept = torch.stack([ours._dropped(weight, where) != 0 for _ in range(400)]).double()
    # 400 masks of at least 36 elements: the standard error of the share is below .004.
    assert abs(kept.mean().item() - 0.7) < 0.02
    dropped = ours._dropped(weight, where)
    torch.testing.assert_close(dropped[dropped != 0], (weight / 0.7)[dropped != 0])


def test_the_mask_is_one_for_all_tokens_of_a_forward_and_new_in_the_next():
    ours = mixture(dropout=0.5, dropout_on="A", top_k=1, experts=1).train()
    token = torch.randn(1, 1, IN, dtype=torch.float64)
    update = ours(token.expand(2, 6, IN))[0]
    assert torch.equal(update, update[:1, :1].expand_as(update))
    assert not torch.equal(update, ours(token.expand(2, 6, IN))[0])


@pytest.mark.parametrize("where", ["A", "B", "x"])
def test_dropout_is_off_in_eval(where):
    dropping, plain = mixture(dropout=0.5, dropout_on=where).eval(), mixture().eval()
    x = torch.randn(2, 4, IN, dtype=torch.float64)
    assert torch.equal(dropping(x)[0], plain(x)[0])


def test_the_gradient_of_A_is_masked_and_scaled_as_A_was():
    ours = mixture(dropout=0.5, dropout_on="A").train()
    x, seen = torch.randn(2, 4, IN, dtype=torch.float64), {}
    original = ours._dropped

    def spy(tensor, name):
        seen[name] = original(tensor, name)
        return seen[name]

    ours._dropped = spy
    ours(x)[0].sum().backward()
    mask = (seen["A"] != 0).double() / 0.5
    free = mixture()
    free.A = torch.nn.Parameter(seen["A"].detach().clone())
    free(x)[0].sum().backward()
    torch.testing.assert_close(ours.A.grad, free.A.grad * mask)


def test_zero_dropout_is_bit_equal_to_no_dropout():
    x = torch.randn(2, 4, IN, dtype=torch.float64)
    assert torch.equal(mixture(dropout=0.0, dropout_on="A").train()(x)[0], mixture(dropout_on="none").train()(x)[0])


def test_no_loop_over_experts_in_the_trace():
    """The number of matrix products does not depend on the number of experts."""

    def products(experts: int) -> int:
        made = Mixture(IN, OUT, experts, MosldConfig(experts=experts, dropout=0.0))
        with torch.profiler.profile() as profile:
            made(torch.randn(2, 4, IN))
        return sum(event.count for event in profile.key_averages() if event.key in ("aten::mm", "aten::addmm"))

    assert products(2) == products(16) == 3
