"""The base model and its tokenizer."""

from mosld.model.load import load_base, load_model, resolve_dtype
from mosld.model.processes import Processes, processes
from mosld.model.shape import meta_model, transformers_config

__all__ = [
    "Processes",
    "load_base",
    "load_model",
    "meta_model",
    "processes",
    "resolve_dtype",
    "transformers_config",
]
