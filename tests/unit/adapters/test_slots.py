"""One slot for each expert of a token and back: what expand and sum compute, without torch's slow sums."""

import pytest
import torch

from mosld.adapters.kernels.grouped import spread, total
from tests.helpers.counting import Operators
from tests.helpers.small_layers import assert_same

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_a_tensor_is_spread_over_slots_and_its_gradients_are_added_up(slots):
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert_same(spread(x, slots), x.expand(slots, 3, 4), {"x": x}, **TIGHT)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_slots_are_added_up_and_each_has_the_gradient_of_the_sum(slots):
    x = torch.randn(slots, 3, 4, dtype=torch.float64, requires_grad=True)
    assert_same(total(x), x.sum(0), {"x": x}, **TIGHT)


def test_neither_runs_a_sum():
    x = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    with Operators() as counted:
        total(spread(x, 2)).backward(torch.ones_like(x))
    assert counted.counts["sum"] == 0
    assert counted.counts["add"] == 2
