"""Products of one input in one go: what autograd would compute, with less kept for backward."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from mosld.adapters.kernels.fused_linear import products
from tests.helpers.counting import saved_bytes
from tests.helpers.small_layers import assert_same

TIGHT = {"rtol": 1e-11, "atol": 1e-11}
ROWS = (5, 3, 7)


def weights(dtype=torch.float64):
    return [torch.randn(rows, 12, dtype=dtype, requires_grad=True) for rows in ROWS]


def mask_of(x):
    return (torch.rand(x.shape) < 0.7).to(torch.int8)


@pytest.mark.parametrize("masked", [(), (0,), (2,), (0, 2), (0, 1, 2)])
def test_forward_and_gradients_are_autograd_s(masked):
    x = torch.randn(2, 4, 12, dtype=torch.float64, requires_grad=True)
    own = weights()
    masks = [mask_of(x) if i in masked else None for i in range(3)]
    ours = products(x, list(zip(own, masks, strict=True)))
    theirs = [linear(x if mask is None else x * mask, weight) for weight, mask in zip(own, masks, strict=True)]
    leaves = {"x": x} | {f"weight {i}": weight for i, weight in enumerate(own)}
    assert_same(torch.cat(ours, -1), torch.cat(theirs, -1), leaves, **TIGHT)


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_what_is_frozen_has_no_gradient(frozen):
    x = torch.randn(2, 4, 12, dtype=torch.float64, requires_grad=frozen != "x")
    first, *others = weights()
    first.requires_grad_(frozen != "weight")
    torch.cat(products(x, [(weight, None) for weight in (first, *others)]), -1).sum().backward()
    assert (x.grad is None) == (frozen == "x")
    assert (first.grad is None) == (frozen == "weight")
    assert all(weight.grad is not None for weight in others)


def test_a_product_that_the_loss_does_not_see_has_a_gradient_of_zero():
    """Zero and not None: DDP needs no find_unused_parameters."""
    x, own = torch.randn(2, 4, 12, dtype=torch.float64), weights()
    products(x, [(weight, None) for weight in own])[0].sum().backward()
    assert own[0].grad.any()
    assert not own[1].grad.any()


def test_an_input_in_low_precision_meets_the_weights_in_theirs():
    x, own = torch.randn(2, 4, 12).bfloat16().requires_grad_(), weights(torch.float32)
    ours = products(x, [(weight, None) for weight in own])
    leaves = {"x": x} | {f"weight {i}": weight for i, weight in enumerate(own)}
    wide = x.float()
    theirs = [linear(wide, weight) for weight in own]
    assert_same(torch.cat(ours, -1), torch.cat(theirs, -1), leaves, rtol=1e-2, atol=1e-5)  # x's gradient is bf16
    assert x.grad is None


def test_backward_keeps_the_input_as_it_came_and_a_byte_for_each_element_of_a_mask():
    x, own = torch.randn(2, 64, 12).bfloat16().requires_grad_(), weights(torch.float32)
    masks = [None, mask_of(x), None]
    with saved_bytes(nn.ParameterList(own)) as found:
        products(x, list(zip(own, masks, strict=True)))
    assert found == [2 * x.numel() + x.numel()]


def test_under_autocast_the_products_are_in_low_precision_and_so_are_those_of_autograd():
    x, own = torch.randn(2, 4, 12, requires_grad=True), weights(torch.float32)
    mask = mask_of(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = products(x, [(own[0], None), (own[1], mask)])
        theirs = [linear(x, own[0]), linear(x * mask, own[1])]
    assert [found.dtype for found in ours] == [torch.bfloat16] * 2
    assert_same(torch.cat(ours, -1), torch.cat(theirs, -1), {"x": x, "first": own[0], "second": own[1]})


def test_weights_of_different_types_are_each_met_in_their_own():
    x = torch.randn(2, 4, 12, requires_grad=True)
    low, high = torch.randn(5, 12).bfloat16(), torch.randn(3, 12)
    found = products(x, [(low, None), (high, None)])
    assert [part.dtype for part in found] == [torch.bfloat16, torch.float32]
