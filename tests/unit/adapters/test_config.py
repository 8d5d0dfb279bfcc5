"""MosldConfig: the values it refuses and saves, and the options that come from a method's config."""

import dataclasses

import pytest

import mosld
from mosld.adapters.adapt import peft_config
from mosld.adapters.config import MosldConfig
from mosld.common.errors import UserError
from mosld.config.groups import method_config
from mosld.config.schema import MethodConfig

REFUSED = [
    ({"top_k": 6}, r"top_k must be in \[1, 5\].* got 6"),
    ({"top_k": 3, "experts": [8, 2]}, r"top_k must be in \[1, 2\].* got 3"),
    ({"top_k": 0}, "top_k must be in"),
    ({"top_k": None}, "router='topk' needs top_k"),
    ({"top_k": None, "router": "capacity"}, "router='capacity' needs top_k"),
    ({"router": "domain", "top_k": None}, "needs the name of each of its 5 experts"),
    ({"router": "domain", "top_k": None, "domains": ["a"]}, "needs the name of each of its 5 experts"),
    ({"r": 0}, "r must be at least 1, got 0"),
    ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ({"gate_dropout": -0.1}, r"gate_dropout must be in \[0, 1\), got -0.1"),
    ({"capacity_factor": 0.0}, "capacity_factor must be above 0"),
    *[
        ({key: "wrong"}, f"{key} must be one of .*, got 'wrong'")
        for key in ("router", "share", "dropout_on", "init", "router_init", "balance", "pool", "inference")
    ],
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_invalid_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        MosldConfig(**options)


def test_a_saved_config_loads_equal(tmp_path):
    config = MosldConfig(router="domain", top_k=None, experts=2, domains=["a", "b"], inference="vote", share="none")
    config.save_pretrained(tmp_path)
    assert MosldConfig.from_pretrained(tmp_path) == config


def test_every_option_of_a_method_reaches_the_config_of_its_adapter():
    """Only these keys act before the adapter is made or are named otherwise."""
    elsewhere = {
        "name", "kind", "rank", "targets", "plain_targets", "virtual_tokens", "own_learning_rate", "train_experts",
        "experts_from", "from_run", "add_task", "rslora", "dora", "match", "first_kind",
    }  # fmt: skip
    shared = {option.name for option in dataclasses.fields(MethodConfig)} - elsewhere
    assert shared <= {option.name for option in dataclasses.fields(MosldConfig)}
    method, allocation = method_config("sira", 4, {"rank": 3, "gate_dropout": 0.25, "capacity_factor": 2.0})
    config = peft_config(method, allocation)
    assert (config.r, config.experts, config.gate_dropout, config.capacity_factor) == (3, 4, 0.25, 2.0)


def test_modules_with_a_single_lora_are_saved_as_plain_modules():
    config = peft_config(*method_config("mixlora", None, {}))
    assert config.to_dict()["plain_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("moa", {}, "name its experts, as in domains="),
        ("mixlora", {"plain_targets": "ffn"}, "overlaps method.targets=block"),
        ("mosl", {"targets": "block", "router": "domain"}, "needs single layers"),
        ("mola", {"top_k": 9}, "lower method.top_k"),
        ("mosl", {"dropout": 0.1}, "drops nothing"),
        ("molora", {"balance": "switch"}, "nothing to balance"),
        ("lora", {"share": "A"}, "has one expert and no router"),
        ("full", {"rank": 4}, "has no adapter"),
        ("moa", {"domains": ["a", "b"], "share": "A"}, "every task has one LoRA of its own"),
        ("mosl", {"allocation": [2, 2, 2, 2, 2]}, "5 parts, the model only 4 layers"),
        ("mixlora", {"allocation": "triangle"}, "has its own number of experts"),
        ("mosl", {"rank": 0, "top_k": 0}, r"(?s)method\.rank.*method\.top_k"),  # both in one message
    ],
)
def test_adapt_refuses_options_that_cannot_work(method, options, message, tiny):
    with pytest.raises(UserError, match=message):
        mosld.adapt(tiny, method, **options)
