"""The learning rate of each step, and the number of steps."""

import dataclasses
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import SGD
from transformers import get_scheduler

from mosld.common.errors import UserError
from mosld.config.schema import TrainingConfig
from mosld.distributed.launch import Launch
from mosld.training import optim
from mosld.training.optim import learning_rate, make_optimizer, recipe_warnings, require_optimizer, total_steps

CONFIG = TrainingConfig(learning_rate=1.0, warmup=0.1, epochs=3)


def test_learning_rate_rises_during_warmup_and_falls_to_zero():
    rates = [learning_rate(step, 100, CONFIG) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == 0


def test_learning_rate_without_warmup_starts_at_the_peak():
    assert learning_rate(0, 10, TrainingConfig(learning_rate=2.0, warmup=0.0)) == 2.0


@pytest.mark.parametrize(
    ("rate", "full", "parameters", "max_steps", "keys"),
    [
        (3e-3, False, 8_030_000_000, None, ["training.learning_rate=0.003"]),
        (3e-3, False, 135_000_000, None, []),
        (3e-4, False, 8_030_000_000, None, []),
        (3e-4, True, 8_030_000_000, None, ["training.learning_rate=0.0003"]),
        (3e-4, False, 8_030_000_000, 9, ["training.max_steps=9 is 0.9 of an epoch"]),
        (3e-4, False, 8_030_000_000, 10, []),
        (3e-3, True, 1_000_000_000, 1, ["training.learning_rate=0.003", "training.max_steps=1 is 0.1 of an epoch"]),
    ],
)
def test_a_recipe_that_does_not_fit_is_said_in_a_line_each(rate, full, parameters, max_steps, keys):
    config = TrainingConfig(learning_rate=rate, max_steps=max_steps)
    lines = list(recipe_warnings(config, full, parameters, steps_per_epoch=10))
    assert [line.startswith(f"warning: {key}") for line, key in zip(lines, keys, strict=True)] == [True] * len(keys)


def test_max_steps_limits_the_steps_of_all_epochs():
    assert total_steps(7, CONFIG) == 21
    assert total_steps(7, TrainingConfig(epochs=3, max_steps=5)) == 5
    assert total_steps(7, TrainingConfig(epochs=3, max_steps=50)) == 21


@pytest.mark.parametrize(("schedule", "theirs"), [("cosine", "cosine"), ("constant", "constant_with_warmup")])
def test_rates_after_the_warmup_are_those_of_transformers(schedule, theirs):
    config = dataclasses.replace(CONFIG, learning_rate=0.3, schedule=schedule)
    optimizer = SGD([torch.zeros(1)], lr=0.3)
    scheduler = get_scheduler(theirs, optimizer, num_warmup_steps=10, num_training_steps=100)
    for step in range(100):
        if step >= 10:
            assert learning_rate(step, 100, config) == scheduler.get_last_lr()[0], step
        optimizer.step()
        scheduler.step()
    assert [learning_rate(step, 100, config) for step in (0, 9)] == pytest.approx([0.03, 0.3])


@pytest.mark.parametrize("works", [True, False])
def test_eight_bit_optimiser_that_does_not_run_on_the_device_is_refused(works, monkeypatch):
    class Library(SGD):
        def __init__(self, parameters, lr, weight_decay):
            super().__init__(parameters, lr=lr)

        def step(self, closure=None):
            if not works:
                raise NotImplementedError("no kernel\nfor this device")

    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", SimpleNamespace(AdamW8bit=Library))
    expected = nullcontext() if works else pytest.raises(UserError, match=r"adamw_8bit: .* cpu .*no kernel\); use")
    with expected:
        require_optimizer(TrainingConfig(optimizer="adamw_8bit"), torch.device("cpu"))
    require_optimizer(TrainingConfig(), torch.device("cpu"))


@pytest.mark.parametrize(
    ("device", "engine", "fused"),
    [("cuda", "single", True), ("cuda", "fsdp", True), ("cuda", "zero2", None), ("cpu", "single", None)],
)
def test_adamw_is_fused_on_cuda_but_for_deepspeed(device, engine, fused, monkeypatch):
    """On CPU it stays the plain one, whose results do not change."""
    monkeypatch.setattr(optim, "launch", lambda: Launch(engine=engine))
    with FakeTensorMode():
        weights = nn.ParameterList([nn.Parameter(torch.empty(2, 2, device=device))])
    assert make_optimizer(weights, CONFIG).param_groups[0]["fused"] is fused
