"""mosld: fine-tune language models with mixtures of LoRA experts.

Importing the package imports neither torch nor transformers; its functions do when first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
# Each function and exception with the module that defines it.
_FUNCTIONS = {
    "adapt": "mosld.adapters",
    "grow": "mosld.adapters",
    "drop_expert": "mosld.adapters",
    "replace_expert": "mosld.adapters",
    "load_base": "mosld.models.load",
    "load": "mosld.recipes.python_api",
    "evaluate": "mosld.recipes.python_api",
    "generate": "mosld.recipes.python_api",
    "UserError": "mosld.common.errors",
    "DivergedError": "mosld.training.loop",
}
__all__ = ["__version__", "train", *_FUNCTIONS]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mosld' has no attribute '{name}'")
    import_module("mosld.common.process").silence_imports()
    try:
        # `train` is the module of the command, which can be called.
        return import_module("mosld.train") if name == "train" else getattr(import_module(_FUNCTIONS[name]), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"mosld.{name} needs {error.name}: pip install 'mosld[train]'", name=error.name) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
