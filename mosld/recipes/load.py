"""Base models and trained runs on this process's device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mosld.adapters.load import Model, load_adapter
from mosld.common.errors import UserError
from mosld.common.threads import watch_cores
from mosld.config.method_checks import PISSA
from mosld.config.schema import ModelConfig
from mosld.distributed.fsdp import move_to_device
from mosld.distributed.processes import processes
from mosld.models.fingerprint import base_fingerprint
from mosld.models.load import have_weights, load_placed
from mosld.recipes.remake import remake_adapter
from mosld.runs.console import Console
from mosld.runs.saved import SavedRun

# torch splits an elementwise operator into pieces of this size (at::internal::GRAIN_SIZE).
ELEMENTS_PER_THREAD = 32768


def load_base_model(
    config: ModelConfig, console: Console | None = None, recorded: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model on this process's device, or its shard of it, and the tokenizer.

    Args:
        recorded: the fingerprint of the base that a run was trained on, if it is known.

    Raises:
        UserError: the weights cannot be had, or are not those of the run, and why.
    """
    console = console or Console()
    with console.fetching(config.hub):
        have_weights(config, console.working)
    group = processes()
    if group.device.type == "cpu":
        watch_cores(_run_on_all_threads, torch.get_num_threads())
    with console.working(f"loading {config.name}"):
        loaded = load_placed(config, group)
    # After the loading, which names weights that are not finite.
    _require_same_base(config, recorded)
    return loaded


def _require_same_base(config: ModelConfig, recorded: str | None) -> None:
    """Refuse other weights than those that a run was trained on."""
    group = processes()
    recorded = group.broadcast(recorded)
    if recorded is None or config.allow_other_base:
        return
    fingerprint = base_fingerprint(config) if group.main else None
    if group.main and fingerprint not in (recorded, None):
        # A damaged file of the cache must not accuse the base.
        fingerprint = base_fingerprint(config, cached=False)
    fingerprint = group.broadcast(fingerprint)
    if fingerprint not in (recorded, None):
        raise UserError(
            f"model={config.name}: the weights of {config.path or 'the base model'} have the fingerprint "
            f"{fingerprint}, and the run was trained on {recorded}: another base gives other results. Give the run's "
            "own with model.path=DIR, or use this one in spite of that with model.allow_other_base=true "
            "(--allow-other-base)."
        )


def _run_on_all_threads() -> None:
    torch.zeros(ELEMENTS_PER_THREAD * torch.get_num_threads()).add_(1)


def load_trained(
    config: ModelConfig, run: SavedRun, console: Console | None = None
) -> tuple[Model, PreTrainedTokenizerBase]:
    """What a run trained, on this process's device and in eval mode, and its tokenizer.

    Args:
        run: the trained adapter, or the whole model of full fine-tuning.

    Raises:
        UserError: base model or trained weights cannot be had, and why.
    """
    if run.whole:
        model, tokenizer = load_base_model(replace(config, path=str(run.weights.resolve())), console)
        return model.eval(), tokenizer
    base, tokenizer = load_base_model(config, console, run.seal.base())
    remake_adapter(config, run, console or Console())
    return move_to_device(load_adapter(base, run.weights), processes()).eval(), tokenizer


@contextmanager
def untrained(config: ModelConfig, model: Model, run: SavedRun) -> Iterator[Model]:
    """The model as it was before training; a second base model where its weights changed (full, PiSSA)."""
    if isinstance(model, PeftModel) and getattr(model.active_peft_config, "init_lora_weights", None) != PISSA:
        with model.disable_adapter():
            yield model
    else:
        yield load_base_model(config, recorded=run.seal.base())[0]
