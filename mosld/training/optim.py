"""The optimiser, the learning rate of each step, and what a model needs before its first step.

The learning rate is a pure function of the step, so no state of a schedule has to be saved.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from torch import nn
from torch.optim import AdamW

from mosld.adapters.load import base_model_of, trained_parameters
from mosld.config.schema import TrainingConfig
from mosld.distributed.tensors import cast_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def learning_rate(step: int, total: int, config: TrainingConfig) -> float:
    """The rate of optimiser step `step` (from 0): linear warm-up to `learning_rate`, then linear decay to zero."""
    warmup = math.ceil(config.warmup * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * (total - step) / (total - warmup)


def total_steps(steps_per_epoch: int, config: TrainingConfig) -> int:
    """Optimiser steps of the whole run."""
    return min(steps_per_epoch * config.epochs, config.max_steps or math.inf)  # type: ignore[return-value]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> AdamW:
    """AdamW over the trained parameters, in the order of their names."""
    parameters = list(trained_parameters(model).values())
    return AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def ready_to_train(
    adapted: "PreTrainedModel | PeftModel", checkpointing: bool, contexts: Callable[[], object] | None = None
) -> "PreTrainedModel | PeftModel":
    """The model with float32 weights where its own weights train, and with gradient checkpointing where asked for.

    Args:
        adapted: the model; it is changed in place, except a sharded base that trains as a whole.
        checkpointing: whether to recompute activations in backward.
        contexts: makes the two contexts of the first and the repeated forward (`context_fn` of
            torch.utils.checkpoint).
    """
    if not isinstance(adapted, PeftModel):
        # An update of 1e-5 is lost in a bfloat16 weight.
        autocast_dtype = adapted.dtype if adapted.dtype != torch.float32 else None
        adapted = cast_weights(adapted, torch.float32, autocast_dtype)
        adapted.requires_grad_(True)
    if checkpointing:
        base = base_model_of(adapted)
        base.enable_input_require_grads()
        options = {"use_reentrant": False} | ({"context_fn": contexts} if contexts else {})
        base.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    return adapted
