"""The adapters' dropout: its mask against one drawn element by element, its rate, its gradient, its generator."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mosld.adapters.kernels.dropout import draw, dropout, kept_share
from tests.helpers import naive


@pytest.mark.parametrize("p", [0.0001, 0.05, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("shape", [(1,), (3,), (4,), (3, 5, 7), (40, 12)])
def test_the_mask_is_the_one_that_a_loop_draws_from_the_same_generator(shape, p):
    x = torch.randn(shape, dtype=torch.float64)
    torch.manual_seed(7)
    theirs = x * naive.dropped(shape, p)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    torch.testing.assert_close(dropout(x, p, training=True), theirs, rtol=1e-15, atol=0)
    assert torch.equal(torch.get_rng_state(), after), "whatever is drawn next depends on it"


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.9])
def test_the_share_kept_is_the_stated_one_and_its_inverse_keeps_the_mean(p):
    torch.manual_seed(0)
    assert abs(kept_share(p) - (1 - p)) <= 2**-17
    found = dropout(torch.ones(1000, 2000, dtype=torch.float64), p, training=True)
    assert set(found.unique().tolist()) == {0.0, 1 / kept_share(p)}
    deviation = (p * (1 - p) / found.numel()) ** 0.5
    assert abs((found != 0).double().mean().item() - kept_share(p)) < 5 * deviation
    assert abs(found.mean().item() - 1) < 5 * deviation / kept_share(p)


def test_every_place_is_dropped_at_the_same_rate_and_none_with_its_neighbours():
    """Four words come out of each number: none of their places may differ, nor one follow another."""
    torch.manual_seed(0)
    masks = torch.stack([draw(torch.empty(16), 0.5) for _ in range(20_000)]).double()
    assert (masks.mean(0) - 0.5).abs().max() < 5 * 0.5 / 20_000**0.5
    between = torch.corrcoef(masks.T) - torch.eye(16)
    assert between.abs().max() < 5 / 20_000**0.5


def test_two_draws_share_nothing_and_one_seed_gives_one_mask():
    like = torch.empty(400, 500)
    torch.manual_seed(3)
    first, second = draw(like, 0.5), draw(like, 0.5)
    together = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).double())[0, 1]
    assert abs(together) < 5 / like.numel() ** 0.5
    torch.manual_seed(3)
    assert torch.equal(draw(like, 0.5), first)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_gradient_goes_through_the_same_mask_in_the_type_of_x(dtype):
    x = torch.randn(6, 7, dtype=dtype, requires_grad=True)
    torch.manual_seed(7)
    mask = naive.dropped(x.shape, 0.3)
    torch.manual_seed(7)
    found = dropout(x, 0.3, training=True)
    found.sum().backward()
    assert found.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(x.grad, mask.to(dtype), rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)


def test_backward_keeps_a_byte_an_element():
    kept = []
    x = torch.randn(64, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        dropout(x, 0.1, training=True)
    assert [tensor.untyped_storage().nbytes() for tensor in kept if tensor.numel() > 1] == [x.numel()]


def test_checkpointing_draws_the_same_mask_again():
    x, masks = torch.ones(9, 9, requires_grad=True), []

    def block(x):
        masks.append(dropout(x, 0.5, training=True))
        return masks[-1] * x

    out = checkpoint(block, x, use_reentrant=False)
    torch.rand(5)  # the generator has moved on when backward comes
    out.sum().backward()
    assert len(masks) == 2
    assert torch.equal(*masks)


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True)])
def test_where_nothing_is_dropped_nothing_is_drawn(p, training):
    x, before = torch.randn(4), torch.get_rng_state()
    assert dropout(x, p, training) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_shapes_alone_make_a_mask_of_shapes_alone():
    mask = draw(torch.empty(3, 5, device="meta"), 0.1)
    assert (mask.is_meta, mask.shape, mask.dtype) == (True, (3, 5), torch.int8)


@pytest.mark.parametrize("p", [1e-9, 1 - 1e-9])
def test_a_ratio_beyond_16_bits_becomes_the_nearest_that_they_can_draw(p):
    assert kept_share(p) in (1 / 65536, 65535 / 65536)
    assert dropout(torch.ones(8), p, training=True).isfinite().all()
