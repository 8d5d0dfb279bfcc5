"""The A that a run began with, drawn again from its seed: the base model's shapes are enough.

A starts at random and keeps much of it, so two runs of one seed can have nearly the same A whatever they learned.
Shapes: I in, R rank.
"""

import json
from typing import Any

import numpy as np
import torch
from peft import get_peft_model_state_dict
from torch import nn

from mosld.adapters.adapt import adapt_with
from mosld.analysis.adapter_files import AdapterRun, Array, banks
from mosld.common.errors import UserError
from mosld.models.config import meta_model
from mosld.models.load import resolve_dtype


def starting_A(run: AdapterRun) -> dict[str, Array] | None:
    """The A of each layer before training [R, I]; None where it cannot be told.

    That is so if the base model's shape is not at hand, or if what is drawn today has nothing to do with the trained A
    (another torch may draw otherwise).
    """
    config, trained = run.config, run.single_A
    try:
        hollow = _without_storage(meta_model(config.model), _dtype(run))
        adapted = adapt_with(hollow, config.method, config.allocation, config.seed)
    except UserError:
        return None
    rank = config.method.rank if run.mixture else None
    start = {key: bank.A_ERI[0] for key, bank in banks(get_peft_model_state_dict(adapted), rank).items()}
    known = all(key in start and _began_with(A_RI, start[key]) for key, A_RI in trained.items())
    return {key: start[key] for key in trained} if known else None


def _began_with(A_RI: Array, start_RI: Array) -> bool:
    """Whether A can have begun so: the cosine of two unrelated matrices has a deviation of 1 / root of their size."""
    if A_RI.shape != start_RI.shape:
        return False
    cosine = (A_RI * start_RI).sum() / np.sqrt((A_RI**2).sum() * (start_RI**2).sum())
    return bool(cosine > 3 / np.sqrt(A_RI.size))


def _without_storage(model: Any, dtype: torch.dtype) -> Any:
    """Every weight a single zero, seen in its shape: adapters are made beside it as beside the real one."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.zeros((), dtype=dtype).expand(parameter.shape), False))
    return model


def _dtype(run: AdapterRun) -> torch.dtype:
    """That of the base in training: PEFT's LoRA starts rounded to it."""
    try:
        return getattr(torch, json.loads((run.directory / "results.json").read_text())["dtype"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return resolve_dtype(run.config.model.dtype)
