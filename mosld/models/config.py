"""A model's shape without its weights: from `conf/model`, nothing is fetched."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from mosld.common.errors import UserError
from mosld.config.schema import ModelConfig


def transformers_config(config: ModelConfig) -> PretrainedConfig:
    """The transformers config that `architecture` and `shape` describe, or that of the checkpoint in `path`."""
    try:
        if config.path:
            return AutoConfig.from_pretrained(config.path, trust_remote_code=False)
        return AutoConfig.for_model(config.architecture, **config.shape)
    except (OSError, ValueError, TypeError) as error:
        place = config.path or "model.architecture, model.shape"
        raise UserError(f"model={config.name}: {place}: {error}") from error


def meta_model(config: ModelConfig, dtype: torch.dtype | None = None, attention: str | None = None) -> Any:
    """The model on the meta device: shapes and parameter counts, no memory.

    Args:
        config: the model group.
        dtype: of the weights; None: the default one.
        attention: name of the attention function; None: transformers' own choice.
    """
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(transformers_config(config), dtype=dtype, attn_implementation=attention)
