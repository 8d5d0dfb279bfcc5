"""mosld: fine-tune language models with mixtures of LoRA experts.

Importing the package imports neither torch nor transformers; `mosld.adapt` and `mosld.load_base` do when first used.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "adapt", "load_base"]


def __getattr__(name: str) -> Any:
    if name == "adapt":
        from mosld.adapters import adapt

        return adapt
    if name == "load_base":
        from mosld.models.load import load_base

        return load_base
    raise AttributeError(f"module 'mosld' has no attribute '{name}'")
