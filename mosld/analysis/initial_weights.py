"""The A that a run started with, drawn again from its seed; the base model's shapes are enough.

A starts random and keeps much of that, so two runs of one seed can have nearly the same A whatever they learned.
Shapes: I in, R rank.
"""

import numpy as np
import torch
from peft import get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from mosld.adapters.adapt import adapt_with
from mosld.analysis.adapter_files import AdapterRun, Array, banks_of
from mosld.common.errors import UserError
from mosld.common.files import read_json
from mosld.models.config import meta_model
from mosld.models.load import DTYPES, resolve_dtype


def initial_a(run: AdapterRun) -> dict[str, Array] | None:
    """The A of each layer before training [R, I].

    None if the base model's shape is not available, or if the drawn A is unrelated to the trained one (another version
    of torch may draw other numbers).
    """
    config = run.config
    try:
        model = _without_storage(meta_model(config.model), _training_dtype(run))
        adapted = adapt_with(model, config.method, config.allocation, config.seed)
    except UserError:
        return None
    rank = config.method.rank if run.is_mixture else None
    initial = {key: bank.A_ERI[0] for key, bank in banks_of(get_peft_model_state_dict(adapted), rank).items()}
    trained = run.single_a
    if not all(key in initial and _are_related(A_RI, initial[key]) for key, A_RI in trained.items()):
        return None
    return {key: initial[key] for key in trained}


def _are_related(A_RI: Array, initial_RI: Array) -> bool:
    """Whether the cosine of two matrices is above 3 standard deviations, 1 / sqrt(R I), of that of unrelated ones."""
    if A_RI.shape != initial_RI.shape:
        return False
    cosine = (A_RI * initial_RI).sum() / np.sqrt((A_RI**2).sum() * (initial_RI**2).sum())
    return bool(cosine > 3 / np.sqrt(A_RI.size))


def _without_storage(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model with every weight a single expanded zero: adapters are drawn as beside the real weights."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.zeros((), dtype=dtype).expand(parameter.shape), False))
    return model


def _training_dtype(run: AdapterRun) -> torch.dtype:
    """The dtype of the base model in training: PEFT rounds LoRA's initial weights to it."""
    name = (read_json(run.directory / "results.json") or {}).get("dtype")
    return DTYPES.get(str(name)) or resolve_dtype(run.config.model.dtype)
