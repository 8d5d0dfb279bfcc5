"""Combinations of keys of a method that work, its own values, and its files; `test_refusals` has those that do not."""

import re

import pytest

import mosld
from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.options import config_directory, group_options

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
