"""A model's weights in another type."""

from typing import Any

import torch

from mosld.config.launch import launch
from mosld.model import zero
from mosld.model.gathering import is_part
from mosld.model.processes import processes
from mosld.model.sharding import recast


def in_type(model: Any, dtype: torch.dtype, products: torch.dtype | None = None) -> Any:
    """The model with its weights in this type: itself, or, shared among processes, one that takes its place.

    Buffers keep their type, as they do when a checkpoint is loaded: a model whose rotary frequencies were rounded would
    score otherwise than the file that it is saved to.

    Args:
        model: a transformers model.
        dtype: of its weights.
        products: type of the products under autocast, where the model is going to be trained.
    """
    if model.dtype == dtype:
        return model
    first = next(model.parameters())
    if zero.is_shared(first):
        return zero.recast(model, processes(), dtype)
    if is_part(first):
        return recast(model, processes(), launch(), dtype, products)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model
