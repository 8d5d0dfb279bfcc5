"""AdamW on the adapter, and a learning rate that is a pure function of the step: nothing of it needs saving."""

import math
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.optim import AdamW

from mosld.adapters.load import trained_parameters
from mosld.config.schema import TrainingConfig
from mosld.distributed.tensors import in_type

# PART: AdamW on the adapter, and a learning rate that is a pure function of the step: nothing of it needs saving.


def learning_rate(step: int, total: int, config: TrainingConfig) -> float:
    """The rate of optimiser step `step` (from 0): a linear rise over the warm-up, then a linear fall to zero."""
    warmup = math.ceil(config.warmup * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * (total - step) / (total - warmup)


def total_steps(steps_per_epoch: int, config: TrainingConfig) -> int:
    """Optimiser steps of the whole run."""
    return min(steps_per_epoch * config.epochs, config.max_steps or math.inf)  # type: ignore[return-value]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> AdamW:
    """AdamW over the trained parameters, in the order of their names."""
    parameters: list[Any] = list(trained_parameters(model).values())
    return AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


# PART: What an adapted model needs before its first step, on any device.


def ready_to_train(adapted: Any, checkpointing: bool, contexts: Callable[[], Any] | None = None) -> Any:
    """The model, float32 where its own weights train, and recomputing its layers in backward where asked for.

    Args:
        adapted: the model; it is changed in place, but for one that is shared among processes and trains as a whole.
        checkpointing: whether to recompute.
        contexts: makes the two contexts in which layers run and run again (`context_fn` of torch.utils.checkpoint).
    """
    if not isinstance(adapted, PeftModel):
        low = adapted.dtype if adapted.dtype != torch.float32 else None
        adapted = in_type(adapted, torch.float32, low)  # an update of 1e-5 is lost in a bfloat16 weight
        adapted.requires_grad_(True)
    if checkpointing:
        inner: Any = adapted.get_base_model() if isinstance(adapted, PeftModel) else adapted
        inner.enable_input_require_grads()
        options = {"use_reentrant": False} | ({"context_fn": contexts} if contexts else {})
        inner.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    return adapted
