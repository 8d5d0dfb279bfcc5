"""AdamW on the adapter, and a learning rate that is a pure function of the step: nothing of it needs saving."""

import math
from typing import Any

from torch import nn
from torch.optim import AdamW

from mosld.config import TrainingConfig


def learning_rate(step: int, total: int, config: TrainingConfig) -> float:
    """The rate of optimiser step `step` (from 0): a linear rise over the warm-up, then a linear fall to zero."""
    warmup = math.ceil(config.warmup * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * (total - step) / (total - warmup)


def total_steps(steps_per_epoch: int, config: TrainingConfig) -> int:
    """Optimiser steps of the whole run."""
    return min(steps_per_epoch * config.epochs, config.max_steps or math.inf)  # type: ignore[return-value]


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that have a gradient, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def make_optimizer(model: nn.Module, config: TrainingConfig) -> AdamW:
    """AdamW over the trained parameters, in the order of their names."""
    parameters: list[Any] = list(trained_parameters(model).values())
    return AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
