"""torch.compile for training steps, one decoder layer at a time.

Layers of one shape share compiled code, so compiling thirty layers takes as long as compiling one. Modules and their
names do not change, and neither do checkpoints and saved adapters. Scoring runs eagerly (`uncompiled`), so that scores
do not depend on compiling.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mosld.common.errors import UserError

# Graphs of a layer: by number of experts, and for micro-batches of one row and of several.
MAX_GRAPHS = 256


def compile_layers(model: nn.Module, say: Callable[[str], None] = lambda _: None) -> None:
    """Compile every decoder layer when it first runs.

    Dropout draws the same random numbers as without compiling, so results are equal up to rounding.

    Args:
        model: its layers are compiled in place.

    Raises:
        UserError: the model has no decoder layers that transformers marks as such.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError("training.compile=true: the model has no decoder layers to compile; set it to false.")
    for layer in layers:
        layer.compile(dynamic=True, recompile_limit=MAX_GRAPHS, options={"fallback_random": True})
    say(f"{len(layers)} layers are compiled in the first steps, which take long")


def has_compiled(model: nn.Module) -> bool:
    """Whether any layer of a model is compiled."""
    return any(module._compiled_call_impl is not None for module in model.modules())


def uncompiled(compiled: bool) -> AbstractContextManager[object]:
    """A context in which `compiled` layers run eagerly."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
