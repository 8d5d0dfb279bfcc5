"""mosld: fine-tune language models with mixtures of LoRA experts.

Importing the package imports neither torch nor transformers; its functions do when first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
# Each function with the module that defines it.
_FUNCTIONS = {
    "adapt": "mosld.adapters",
    "grow": "mosld.adapters",
    "drop_expert": "mosld.adapters",
    "replace_expert": "mosld.adapters",
    "load_base": "mosld.models.load",
}
__all__ = ["__version__", *_FUNCTIONS]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module 'mosld' has no attribute '{name}'")
