"""MosldConfig: what it refuses, what it writes, and which methods `adapt` refuses on a model."""

import pytest

import mosld
from mosld.adapters.config import MosldConfig
from mosld.common.errors import UserError

REFUSED = [
    ({"top_k": 6}, r"top_k must lie in \[1, 5\].* got 6"),
    ({"top_k": 3, "experts": [8, 2]}, r"top_k must lie in \[1, 2\].* got 3"),
    ({"top_k": 0}, "top_k must lie in"),
    ({"top_k": None}, "router='topk' needs top_k"),
    ({"top_k": None, "router": "capacity"}, "router='capacity' needs top_k"),
    ({"router": "domain", "top_k": None}, "needs the name of each of its 5 experts"),
    ({"router": "domain", "top_k": None, "domains": ["a"]}, "needs the name of each of its 5 experts"),
    ({"r": 0}, "r must be at least 1, got 0"),
    ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
    ({"gate_dropout": -0.1}, r"gate_dropout must lie in \[0, 1\), got -0.1"),
    ({"capacity_factor": 0.0}, "capacity_factor must be above 0"),
    *[
        ({key: "wrong"}, f"{key} must be one of .*, got 'wrong'")
        for key in ("router", "share", "dropout_on", "init", "router_init", "balance", "pool", "inference")
    ],
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_work_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        MosldConfig(**options)


def test_what_is_saved_is_what_is_read(tmp_path):
    config = MosldConfig(router="domain", top_k=None, experts=2, domains=["a", "b"], inference="vote", share="none")
    config.save_pretrained(tmp_path)
    assert MosldConfig.from_pretrained(tmp_path) == config


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
    ],
)
def test_combinations_that_cannot_work_are_refused(method, options, message, tiny):
    with pytest.raises(UserError, match=message):
        mosld.adapt(tiny, method, **options)


def test_several_mistakes_are_one_message(tiny):
    with pytest.raises(UserError) as caught:
        mosld.adapt(tiny, "mosl", rank=0, top_k=0)
    assert "method.rank" in str(caught.value)
    assert "method.top_k" in str(caught.value)
