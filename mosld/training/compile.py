"""torch.compile for training steps, one decoder layer at a time.

Layers of one shape share their compiled code, so compiling takes as long for thirty layers as for one. The modules
stay what they are, under the names that they have: checkpoints and saved adapters know nothing of it. Scoring runs
without it (`uncompiled`), so that a score never depends on it.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mosld.common.errors import UserError

# Of layers: by their numbers of experts, and for micro-batches of one row and of several.
MAX_GRAPHS = 256


def compile_layers(model: nn.Module, say: Callable[[str], None] = lambda _: None) -> None:
    """Let every decoder layer be compiled when it first runs, and say so.

    Dropout draws the numbers that it draws without compiling: results are equal to rounding.

    Raises:
        UserError: the model has no layers that transformers marks as such.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError("training.compile=true: the model has no decoder layers to compile; set it to false.")
    for layer in layers:
        layer.compile(dynamic=True, recompile_limit=MAX_GRAPHS, options={"fallback_random": True})
    say(f"{len(layers)} layers are compiled in the first steps, which take long")


def has_compiled(model: nn.Module) -> bool:
    """Whether layers of a model are compiled."""
    return any(module._compiled_call_impl is not None for module in model.modules())


def uncompiled(compiled: bool) -> Any:
    """A context in which layers that were `compiled` run as they were written."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
