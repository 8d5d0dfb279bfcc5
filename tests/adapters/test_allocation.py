"""Experts per layer, and trained parameters on the shapes of LLaMA-2-7B against the paper's own numbers."""

import pytest
import torch

import mosld
from mosld.adapters import MixtureLinear, experts_per_layer
from mosld.config.parts import model_config
from mosld.model import meta_model


def test_a_shape_is_stretched_by_equal_parts():
    assert experts_per_layer([8, 6, 4, 2], 32) == [8] * 8 + [6] * 8 + [4] * 8 + [2] * 8


def test_a_depth_that_four_does_not_divide_differs_by_one_layer_at_most():
    counts = experts_per_layer([8, 6, 4, 2], 30)
    assert [counts.count(n) for n in (8, 6, 4, 2)] == [8, 7, 8, 7]


def test_a_list_of_the_model_s_own_depth_is_taken_as_it_is():
    assert experts_per_layer([3, 1, 2], 3) == [3, 1, 2]


def test_a_list_longer_than_the_depth_is_refused(tiny):
    with pytest.raises(mosld.config.UserError, match="5 parts, the model only 4 layers"):
        mosld.adapt(tiny, "mosl", allocation=[2, 2, 2, 2, 2])


def test_each_layer_of_the_model_has_its_number(tiny):
    model = mosld.adapt(tiny, "mosl", allocation="triangle")
    counts = [m.mosld_mixture["default"].experts for m in model.modules() if isinstance(m, MixtureLinear)]
    assert counts == [8, 8, 6, 6, 4, 4, 2, 2]  # q and v of four layers


ALLOCATIONS = ["triangle", "inverted_triangle", "rectangle", "hourglass", "diamond"]
FIXTURES = [
    ("lora", "triangle", {}, 4_194_304),
    *[(method, name, {}, 13_893_632) for method in ("mosl", "mosld") for name in ALLOCATIONS],
    ("lora", "triangle", {"rank": 64, "targets": "all"}, 159_907_840),
    ("mosl", "triangle", {"share": "none"}, 22_282_240),
    ("mosl", "rectangle", {"share": "none", "targets": "all"}, 105_635_840),
    ("mosl", 8, {"share": "none", "targets": "all"}, 169_017_344),
    ("mosl", 4, {"share": "none", "targets": "all"}, 84_508_672),
    ("mosld", "rectangle", {"targets": "all"}, 69_197_824),
]


@pytest.mark.parametrize(("method", "allocation", "options", "wanted"), FIXTURES)
def test_trained_parameters_on_llama2_7b(method, allocation, options, wanted):
    base = meta_model(model_config("llama2_7b", {}))
    with torch.device("meta"):
        model = mosld.adapt(base, method, allocation=allocation, **options)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == wanted


@pytest.mark.parametrize(
    ("model", "wanted"),
    [("llama2_7b", 6_738_415_616), ("smollm2_135m", 134_515_008), ("llama2_13b", 13_015_864_320)],
)
def test_the_shapes_of_conf_model_have_the_published_number_of_parameters(model, wanted):
    assert sum(p.numel() for p in meta_model(model_config(model, {})).parameters()) == wanted


@pytest.mark.parametrize("model", ["llama_33b", "qwen3_8b", "llama31_8b", "mistral_7b", "smollm2_135m_hub"])
def test_every_other_model_builds_and_adapts_on_the_meta_device(model):
    base = meta_model(model_config(model, {}))
    with torch.device("meta"):
        adapted = mosld.adapt(base, "mosld")
    assert sum(isinstance(m, MixtureLinear) for m in adapted.modules()) == 2 * base.config.num_hidden_layers
