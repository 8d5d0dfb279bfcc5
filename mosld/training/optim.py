"""The optimiser, the learning rate of each step, and what a model needs before its first step.

The learning rate is a pure function of the step, so no state of a schedule has to be saved.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache

import torch
from peft import PeftModel
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from transformers import get_scheduler

from mosld.adapters.load import Model, base_model_of, trained_parameters
from mosld.common.errors import UserError
from mosld.config.schema import TrainingConfig
from mosld.distributed.launch import launch
from mosld.distributed.tensors import cast_weights

# A base this large takes lower rates than the small models for which training=default is made.
LARGE_BASE_PARAMETERS = 1_000_000_000
# Above the rates in use: 1e-4 to 5e-4 for LoRA (QLoRA 2e-4, MoSLD 3e-4), 1e-5 to 5e-5 for all weights.
LARGEST_ADAPTER_RATE = 1e-3
LARGEST_FULL_RATE = 1e-4
# A run of fewer passes over its rows leaves some out.
LEAST_EPOCHS = 1.0
# Names of transformers for the schedules whose rate is not computed here.
SCHEDULES = {"cosine": "cosine", "constant": "constant_with_warmup"}


def learning_rate(step: int, total: int, config: TrainingConfig) -> float:
    """The rate of optimiser step `step` (from 0): linear warm-up to `learning_rate`, then as `schedule` says."""
    warmup = math.ceil(config.warmup * total)
    # transformers' own warm-up begins with a step at rate 0, which trains nothing.
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "linear":
        return config.learning_rate * (total - step) / (total - warmup)
    return config.learning_rate * _decay(SCHEDULES[config.schedule], warmup, total)(step)


@cache
def _decay(name: str, warmup: int, total: int) -> Callable[[int], float]:
    """The share of the peak rate at each step, as transformers computes it."""
    scheduler = get_scheduler(name, SGD([torch.zeros(1)], lr=1.0), warmup, total)
    return scheduler.lr_lambdas[0]


def total_steps(steps_per_epoch: int, config: TrainingConfig) -> int:
    """Optimiser steps of the whole run."""
    return min(steps_per_epoch * config.epochs, config.max_steps or math.inf)  # type: ignore[return-value]


def recipe_warnings(config: TrainingConfig, full: bool, parameters: int, steps_per_epoch: int) -> Iterator[str]:
    """A line for each part of a recipe that does not fit the base model or the data.

    Args:
        full: all weights train, not an adapter.
        parameters: of the base model.
        steps_per_epoch: optimiser steps of a pass over the rows.
    """
    largest = LARGEST_FULL_RATE if full else LARGEST_ADAPTER_RATE
    if parameters >= LARGE_BASE_PARAMETERS and config.learning_rate > largest:
        yield (
            f"warning: training.learning_rate={config.learning_rate:g} is high for a base of {parameters / 1e9:.1f} "
            f"billion parameters, which usually takes at most {largest:g}"
        )
    epochs = total_steps(steps_per_epoch, config) / steps_per_epoch
    if epochs < LEAST_EPOCHS:
        yield (
            f"warning: training.max_steps={config.max_steps} is {epochs:.2g} of an epoch ({steps_per_epoch:,} steps); "
            "training.max_steps=null trains all epochs"
        )


def make_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """AdamW over the trained parameters, in the order of their names."""
    parameters = list(trained_parameters(model).values())
    if config.optimizer == "adamw_8bit":
        # An extra, which also takes a second to import.
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    # One kernel for all weights. DeepSpeed gives the optimiser weights of its own, and keeps step counts on the host.
    fused = all(parameter.is_cuda for parameter in parameters) and not launch().zero
    return AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused or None)


def require_optimizer(config: TrainingConfig, device: torch.device) -> None:
    """Take one step of `adamw_8bit` on a small weight, because its library may lack the device's kernels.

    Raises:
        UserError: the optimiser does not work on this device.
    """
    if config.optimizer != "adamw_8bit":
        return
    weight = nn.Parameter(torch.zeros(64, 64, device=device))
    try:
        optimizer = make_optimizer(nn.ParameterList([weight]), config)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    except Exception as error:  # whatever the library says of a device that it was not built for
        raise UserError(
            f"training.optimizer=adamw_8bit: bitsandbytes does not work on {device.type} here "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            "use training.optimizer=adamw."
        ) from error


def ready_to_train(adapted: Model, checkpointing: bool, contexts: Callable[[], object] | None = None) -> Model:
    """The model with float32 weights where its own weights train, and with gradient checkpointing where asked for.

    Args:
        adapted: the model; it is changed in place, except a sharded base that trains as a whole.
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
