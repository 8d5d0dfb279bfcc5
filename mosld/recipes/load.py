"""A trained run as a model: the base with its adapter, or the whole model where all weights were trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from peft import PeftModel

from mosld.adapters.load import load_adapter
from mosld.config.schema import Config
from mosld.distributed.fsdp import place
from mosld.distributed.processes import processes
from mosld.recipes.context import load_on_device
from mosld.runs.console import Console
from mosld.runs.saved import SavedRun


def load_trained(config: Config, run: SavedRun, console: Console | None = None) -> tuple[Any, Any]:
    """The trained model on its device, in eval mode, and its tokenizer; `console` shows that it is busy.

    Raises:
        UserError: base model or trained weights cannot be had, and why.
    """
    if run.whole:
        config = replace(config, model=replace(config.model, path=str(run.weights.resolve())))
        model, tokenizer = load_on_device(config, console)
    else:
        base, tokenizer = load_on_device(config, console)
        model = place(load_adapter(base, run.weights), processes())
    return model.eval(), tokenizer


@contextmanager
def untrained(config: Config, model: Any) -> Iterator[Any]:
    """The model as it was before training."""
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            yield model
    else:
        yield load_on_device(config)[0]
