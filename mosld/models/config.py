"""A model's shape without its weights: from `conf/model`, or from the config.json of a checkpoint or hub model."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from mosld.common.errors import UserError
from mosld.common.machine import foreign_code, time_limit
from mosld.config.schema import ModelConfig

# Hundreds of layers take one.
SHAPE_SECONDS = 8.0
# Of what a library says.
MAX_REASON = 500


def transformers_config(config: ModelConfig) -> PretrainedConfig:
    """The transformers config that `architecture` and `shape` describe, else that of the checkpoint."""
    source = config.path or (None if config.shape else config.hub)
    subject = f"model={config.name}: {source or 'model.architecture, model.shape'}"
    with (
        foreign_code(lambda error: f"{subject}: {' '.join(str(error).split())[:MAX_REASON]}"),
        time_limit(SHAPE_SECONDS, subject),
    ):
        if source:
            revision = None if config.path else config.revision
            return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        return AutoConfig.for_model(str(config.architecture), **config.shape)


def meta_model(config: ModelConfig, dtype: torch.dtype | None = None, attention: str | None = None) -> PreTrainedModel:
    """The model on the meta device: shapes and parameter counts, no memory.

    Args:
        config: the model group.
        dtype: of the weights; None: torch's default.
        attention: name of the attention kernel; None: transformers' own choice.
    """
    shape = transformers_config(config)
    with foreign_code(lambda error: f"model={config.name}: its shape does not fit: {str(error)[:MAX_REASON]}"):
        return empty_model(shape, dtype=dtype, attn_implementation=attention)


def empty_model(shape: PretrainedConfig, dtype: torch.dtype | None, attn_implementation: str | None) -> PreTrainedModel:
    """A causal language model on the meta device.

    Raises:
        UserError: making it takes more than `SHAPE_SECONDS`.
    """
    with _limit_on_parameters(SHAPE_SECONDS, "making a model of this shape"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(shape, dtype=dtype, attn_implementation=attn_implementation)


@contextmanager
def _limit_on_parameters(seconds: float, what: str) -> Iterator[None]:
    """As `time_limit`, but it ends the code at a parameter that a module gets, in any thread.

    A signal may come while torch turns gradients off, or takes a mode off its stack: they would stay so.
    """
    start, thread = time.process_time(), threading.get_ident()

    def check(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        if threading.get_ident() == thread and time.process_time() - start > seconds:
            raise UserError(f"{what} takes more than {seconds:g} seconds of CPU time; it may never end.")

    with register_module_parameter_registration_hook(check):
        yield
