"""Trained parameters on the shapes of LLaMA-2-7B against the numbers of the papers; other models."""

import pytest
import torch

import mosld
from mosld.adapters.layers import MixtureLinear
from mosld.adapters.load import adapter_size
from mosld.config.groups import model_config
from mosld.models.config import meta_model

AVERAGE_5 = ["triangle", "inverted_triangle", "rectangle", "hourglass", "diamond"]
TASKS = ["obqa", "csqa", "arc_e", "arc_c", "race", "mctest"]
FIXTURES = [
    ("full", None, {}, 6_738_415_616),
    ("lora", None, {}, 4_194_304),
    ("lora", None, {"rank": 64, "targets": "all"}, 159_907_840),
    *[(method, None, {}, 22_282_240) for method in ("mola", "molora", "sira")],
    *[(method, name, {}, 13_893_632) for method in ("mosl", "mosld", "mosld_b") for name in AVERAGE_5],
    ("hydralora", None, {}, 13_893_632),  # the same parts as mosl
    ("mosl", None, {"share": "none"}, 22_282_240),
    ("mola_authors", "rectangle", {}, 105_635_840),
    ("mola_authors", 8, {}, 169_017_344),
    ("mola_authors", 4, {}, 84_508_672),
    ("mosld", "rectangle", {"targets": "all"}, 69_197_824),
    ("mixlora", None, {}, 98_041_856),
    ("mixlora_authors", None, {}, 203_423_744),
    ("lora_matched", None, {}, 13_631_488),  # rank 26, 13,893,632 as mosld has is no multiple of a rank
    ("lora_matched", 8, {"match": "mola"}, 35_651_584),
    ("lora", None, {"dora": True}, 4_456_448),
    ("lora", None, {"init": "pissa"}, 4_194_304),
    ("rlora", None, {}, 13_893_632),  # as hydralora
    ("comol", None, {}, 4_194_304 + 5 * 64 * (8 * 8 + 8)),  # LoRA's, and cores and routers
    ("smora", None, {}, 64 * 64 * (4096 + 4096 + 4096)),
    ("loramoe", None, {}, 5 * 32 * (8 * 3 * (4096 + 11008) + 2 * 4096 + 11008)),
    ("flylora", None, {}, 64 * 32 * 4096),
    ("prefix", None, {"virtual_tokens": 10}, 2_621_440),
    ("prefix", None, {"virtual_tokens": 20}, 5_242_880),
    ("prefix", None, {}, 7_864_320),
    ("moa", None, {"domains": TASKS}, 25_952_256),
    ("hydralora_authors", None, {}, 18_284_544),
]


def on_llama2_7b(method, allocation, options):
    base = meta_model(model_config("llama2_7b", {}))
    with torch.device("meta"):
        return mosld.adapt(base, method, allocation=allocation, **options)


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("method", "allocation", "options", "wanted"), FIXTURES)
def test_trained_parameters_on_llama2_7b(method, allocation, options, wanted):
    assert trained(on_llama2_7b(method, allocation, options)) == wanted


@pytest.mark.parametrize("method", ["lora", "sira", "mosld", "mixlora", "comol", "smora", "flylora"])
def test_the_saved_weights_are_the_trained_ones(method):
    model = on_llama2_7b(method, None, {})
    assert adapter_size(model) == trained(model)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [("llama2_7b", 6_738_415_616), ("smollm2_135m", 134_515_008), ("llama2_13b", 13_015_864_320)],
)
def test_the_shapes_of_conf_model_have_the_published_number_of_parameters(model, wanted):
    assert sum(p.numel() for p in meta_model(model_config(model, {})).parameters()) == wanted


@pytest.mark.parametrize("model", ["llama_33b", "qwen3_8b", "llama31_8b", "mistral_7b", "smollm2_135m_hub"])
def test_every_other_model_can_be_adapted_on_the_meta_device(model):
    base = meta_model(model_config(model, {}))
    with torch.device("meta"):
        adapted = mosld.adapt(base, "mosld")
    assert sum(isinstance(m, MixtureLinear) for m in adapted.modules()) == 2 * base.config.num_hidden_layers
