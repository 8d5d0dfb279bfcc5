"""Experts per layer: a shape stretched over any depth, and a method's own number."""

import pytest

import mosld
from mosld.adapters.adapt import experts_per_layer
from mosld.adapters.layers import MixtureFeedForward, MixtureLinear
from mosld.common.errors import UserError


def test_a_shape_is_stretched_by_equal_parts():
    assert experts_per_layer([8, 6, 4, 2], 32) == [8] * 8 + [6] * 8 + [4] * 8 + [2] * 8


def test_a_depth_that_four_does_not_divide_differs_by_one_layer_at_most():
    counts = experts_per_layer([8, 6, 4, 2], 30)
    assert [counts.count(n) for n in (8, 6, 4, 2)] == [8, 7, 8, 7]


def test_a_list_of_the_model_s_own_depth_is_taken_as_it_is():
    assert experts_per_layer([3, 1, 2], 3) == [3, 1, 2]


def test_a_list_longer_than_the_depth_is_refused(tiny):
    with pytest.raises(UserError, match="5 parts, the model only 4 layers"):
        mosld.adapt(tiny, "mosl", allocation=[2, 2, 2, 2, 2])


def test_each_layer_of_the_model_has_its_number(tiny):
    model = mosld.adapt(tiny, "mosl", allocation="triangle")
    counts = [m.mosld_mixture["default"].experts for m in model.modules() if isinstance(m, MixtureLinear)]
    assert counts == [8, 8, 6, 6, 4, 4, 2, 2]  # q and v of four layers


@pytest.mark.parametrize(("method", "experts"), [("mixlora", 8), ("sira_authors", 16), ("molora_authors", 10)])
def test_a_method_with_a_number_of_its_own_has_it_in_every_layer(method, experts, tiny):
    kind = MixtureFeedForward if method == "mixlora" else MixtureLinear
    model = mosld.adapt(tiny, method)
    routers = [m.mosld_mixture["default"].router for m in model.modules() if isinstance(m, kind)]
    assert {len(router.weight) for router in routers} == {experts}


def test_an_allocation_for_a_method_with_a_number_of_its_own_is_refused(tiny):
    with pytest.raises(UserError, match="has its own number of experts"):
        mosld.adapt(tiny, "mixlora", allocation="triangle")
