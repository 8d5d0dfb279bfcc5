"""A model's shape without its weights: from `conf/model`, nothing is fetched."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from mosld.config import ModelConfig, UserError


def transformers_config(config: ModelConfig) -> PretrainedConfig:
    """The transformers config that `architecture` and `shape` describe."""
    try:
        return AutoConfig.for_model(config.architecture, **config.shape)
    except (ValueError, TypeError) as error:
        raise UserError(f"model={config.name}: model.architecture, model.shape: {error}") from error


def meta_model(config: ModelConfig) -> Any:
    """The model on the meta device: shapes and parameter counts, no memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(transformers_config(config))
