"""Combinations of keys of a method: those that cannot work or have no effect are refused in one message."""

import re

import pytest

import mosld
from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.options import config_directory, group_options


def refusal(overrides: list[str]) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_config(overrides)
    return caught.value.messages


REFUSED = {
    "a rank for full": (["method=full", "method.rank=4"], "method.rank=4", "no adapter"),
    "a target for prefix": (["method=prefix", "method.targets=all"], "method.targets=all", "virtual_tokens"),
    "experts for lora": (["method=lora", "method.experts=4"], "method.experts=4", "one expert"),
    "a router for lora": (["method=lora", "method.router=dense"], "method.router=dense", "one expert"),
    "virtual tokens for mosld": (["method=mosld", "method.virtual_tokens=9"], "method.virtual_tokens=9", "topk"),
    "capacity without that router": (["method=mola", "method.capacity_factor=2"], "capacity_factor", "topk"),
    "gate dropout without that router": (["method=molora", "method.gate_dropout=.2"], "gate_dropout", "dense"),
    "MoA's keys without its router": (["method=mosld", "method.pool=last"], "method.pool=last", "topk"),
    "nothing to balance": (["method=molora", "method.balance=switch"], "method.balance=switch", "every expert"),
    "top-k without k": (["method=mosl", "method.top_k=null"], "method.top_k=null", "topk chooses"),
    "overlapping layers": (["method=mosld", "method.plain_targets=attention"], "plain_targets=attention", "overlaps"),
    "too few experts": (["method=sira_authors", "method.top_k=17"], "method.top_k=17", "method.experts=16"),
    "an allocation that says nothing": (["method=mixlora", "allocation=diamond"], "allocation=diamond", "experts=null"),
    "dropout on nothing": (["method=mosl", "method.dropout=.1"], "method.dropout=0.1", "dropout_on"),
    "lora's B": (["method=lora", "method.dropout_on=B"], "dropout_on=B", "input x"),
    "checkpointing with prefix": (
        ["method=prefix", "training.gradient_checkpointing=true"], "gradient_checkpointing", "micro_batch_size",
    ),
    "rslora for a mixture": (["method=mosld", "method.rslora=true"], "method.rslora=true", "topk"),
    "dora for a mixture": (["method=molora", "method.dora=true"], "method.dora=true", "dense"),
    "pissa for a mixture": (["method=mosld", "method.init=pissa"], "method.init=pissa", "method=lora"),
    "pissa of packed weights": (
        ["method=lora", "method.init=pissa", "model.quantize=nf4"], "model.quantize=nf4", "method.init=pissa",
    ),
    "two scales": (["method=lora_matched", "method.rslora=true"], "method.rslora=true", "method.match=mosld"),
    "a bias without top-k": (["method=molora", "method.balance=bias"], "method.balance=bias", "every expert"),
    "a step without a loss": (["method=smora", "method.balance_over=step"], "balance_over=step", "switch"),
    "a rate without a bias": (["method=mosl", "method.balance_rate=.1"], "method.balance_rate=0.1", "topk"),
    "a kind without its balance": (["method=molora", "method.first_kind=[obqa]"], "method.first_kind", "dense"),
    "an unknown task of a kind": (["method=loramoe", "method.first_kind=[obqq]"], "obqq", "obqa"),
    "a large rank for magnitudes": (["method=flylora", "method.rank=4"], "method.rank=4", "method.rank=1"),
    "cores without a shared A and B": (
        ["method=mosl", "method.dropout=.1", "method.dropout_on=cores"], "dropout_on=cores", "share=both",
    ),
    "random heads of one B": (["method=comol", "method.init_b=random"], "method.init_b=random", "share=both"),
    "a router on many A": (["method=molora", "method.router_input=Ax"], "router_input=Ax", "share=A"),
    "cores in a block": (["method=comol", "method.targets=block"], "method.targets=block", "ffn"),
    "a push to no repository": (["hub.push_to=mine"], "hub.push_to=mine", "owner/name"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_combination_is_refused_with_key_and_reason(case: str):
    overrides, key, reason = REFUSED[case]
    (message,) = refusal(overrides)
    assert key in message
    assert reason in message


WORKING = [
    ["method=mosld", "method.targets=block"],
    ["method=mosld", "method.targets=ffn", "method.plain_targets=attention"],
    ["method=mosld", "method.share=none", "method.dropout_on=x"],
    ["method=mosld", "method.share=B", "method.dropout_on=B", "method.balance=paper_literal"],
    ["method=molora", "method.top_k=2", "method.balance=switch"],
    ["method=hydralora", "method.router_init=normal", "method.init=gaussian"],
    ["method=mixlora", "method.experts=null", "allocation=diamond"],
    ["method=mixlora", "method.router=capacity", "method.gate_dropout=.1", "method.dropout_on=A", "method.dropout=.1"],
    ["method=full", "training.gradient_checkpointing=true"],
    *[["method=" + name, "method.balance_over=step"] for name in ("mosl", "mosld", "mola", "sira", "mixlora")],
    *[["method=" + name, "method.balance=bias"] for name in ("mosl", "mosld", "mola", "sira", "mixlora")],
    ["method=hydralora", "method.router_input=Ax"],
    ["method=loramoe", "method.first_kind=[obqa,race]", "method.balance_offset=0.5"],
    ["method=lora", "method.rslora=true", "method.dora=true", "method.init=pissa"],
    ["method=lora_matched", "method.dora=true", "method.targets=all"],
    ["method=lora", "method.dora=true", "model.quantize=nf4"],
    ["method=moa", "method.inference=vote", "method.pool=last", "method.train_experts=false"],
]


@pytest.mark.parametrize("overrides", WORKING, ids=" ".join)
def test_valid_combination_is_accepted(overrides: list[str]):
    assert load_config(overrides).method.name == overrides[0].removeprefix("method=")


@pytest.mark.parametrize("name", group_options()["method"])
def test_method_file_has_a_command_and_the_source_of_each_value(name: str):
    text = (config_directory() / "method" / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert f"python -m mosld.train method={name}" in text.split("\nname:")[0]
    values = [line for line in text.splitlines() if re.match(r"\w+:", line) and not line.startswith(("name:", "kind:"))]
    assert [line for line in values if " # " not in line] == []


def test_full_has_its_own_learning_rate_unless_overridden():
    assert load_config(["method=full"]).training.learning_rate == 2e-5
    assert load_config(["method=full", "training=paper"]).training.learning_rate == 2e-5
    assert load_config(["method=full", "training.learning_rate=1e-4"]).training.learning_rate == 1e-4
    assert load_config(["method=mosld", "training=paper"]).training.learning_rate == 3e-4


def test_adapt_refuses_an_allocation_for_a_method_with_fixed_experts(tiny):
    with pytest.raises(UserError, match=r"experts=null"):
        mosld.adapt(tiny, "mixlora", allocation=4)
    assert mosld.adapt(tiny, "mixlora", allocation=4, experts=None).peft_config["default"].experts == 4


MIXING = {
    "weights without their mixing": (["data.weights={obqa: 1}"], "data.mixing=weights"),
    "a cap without its mixing": (["data.cap=5"], "data.mixing=cap"),
    "a cap of nothing": (["data.mixing=cap"], "give data.cap"),
    "a task without a weight": (["data.mixing=weights", "data.weights={obqa: 1}"], "no weight for csqa"),
    "a weight that is none": (
        ["data.tasks=[obqa]", "data.mixing=weights", "data.weights={obqa: heavy}"], "must be a number above 0",
    ),
    "a weight beyond all numbers": (
        ["data.tasks=[obqa]", "data.mixing=weights", "data.weights={obqa: 3e38}"], "must be a number above 0 and below",
    ),
    "a weight for no task": (
        ["data.tasks=[obqa]", "data.mixing=weights", "data.weights={obqa: 1, obqaa: 2}"], "did you mean 'obqa'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MIXING)
def test_invalid_mixing_is_refused(case: str):
    overrides, words = MIXING[case]
    (message,) = refusal(overrides)
    assert words in message
