"""The stepper and the loop of a run, built from its training config."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from peft import PeftModel

from mosld.adapters.tuner import MosldModel
from mosld.config.schema import TrainingConfig
from mosld.data.mixing import Order
from mosld.data.tokens.encoding import Example
from mosld.distributed.fsdp import move_to_device
from mosld.distributed.processes import processes
from mosld.evaluation.validation import Validation
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.routing_watch import RoutingWatch
from mosld.training.batching import Domains
from mosld.training.checkpoint import Checkpoints
from mosld.training.loop import Loop
from mosld.training.optim import make_optimizer
from mosld.training.signals import StopSignals
from mosld.training.step import Stepper

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_stepper(
    adapted: "PreTrainedModel | PeftModel",
    config: TrainingConfig,
    *,
    seed: int,
    pad_token_id: int,
    domains: Domains,
    base_dtype: torch.dtype,
) -> Stepper:
    """The adapted model on its device, with an optimiser.

    Args:
        adapted: the model; what it trains has `requires_grad`.
        config: the training group.
        seed: of dropout.
        pad_token_id: token id of a pad.
        domains: as `BatchBuilder`.
        base_dtype: type that the base model was loaded in.
    """
    group = processes()
    move_to_device(adapted, group)
    adapter = adapted.active_peft_config if isinstance(adapted, PeftModel) else None
    return Stepper(
        adapted,
        make_optimizer(adapted, config),
        processes=group,
        seed=seed,
        pad_token_id=pad_token_id,
        max_norm=config.max_grad_norm,
        auxiliary_weight=getattr(adapter, "auxiliary_weight", 0.0),
        domains=domains,
        low_precision=base_dtype if adapted.dtype != base_dtype else None,
    )


def build_loop(
    stepper: Stepper,
    examples: Sequence[Example],
    order: Order,
    config: TrainingConfig,
    *,
    validate: Callable[[], Validation],
    best_by: str,
    run: RunDirectory,
    log_every: int,
    expert_load_every: int,
    routing: RoutingWatch | None,
    console: Console,
    stop: StopSignals,
    track: Callable[[dict[str, object]], None],
    auxiliary: str,
) -> Loop:
    """The training loop; the arguments are those of `Loop`, with the run directory's checkpoints and metrics."""
    return Loop(
        stepper=stepper,
        examples=examples,
        order=order,
        config=config,
        validate=validate,
        best_by=best_by,
        pop_expert_load=lambda: pop_expert_load(stepper.model),
        checkpoints=Checkpoints(run.checkpoints, config.keep_last, run.seal),
        metrics_path=run.metrics,
        log_every=log_every,
        expert_load_every=expert_load_every,
        routing=routing,
        console=console,
        stop=stop,
        auxiliary=auxiliary,
        track=track,
    )


def pop_expert_load(model: torch.nn.Module) -> dict[str, dict[str, list[float] | float]]:
    """Rounded shares of assignments since the last call, for metrics.jsonl.

    Returns:
        "expert_load": by module, the share of each expert; "dropped", where experts have limited capacity: by module,
        the share of assignments that found no slot. No module without a router.
    """
    tuner = getattr(model, "base_model", None)
    shares_by_kind: dict[str, dict[str, torch.Tensor]] = {"expert_load": {}}
    if isinstance(tuner, MosldModel):
        shares_by_kind = tuner.pop_load()
    shares = [share.flatten() for modules in shares_by_kind.values() for share in modules.values()]
    # One host read for all modules.
    numbers = iter(torch.cat(shares).tolist() if shares else [])
    return {
        kind: {
            module: [round(next(numbers), 6) for _ in share] if share.ndim else round(next(numbers), 4)
            for module, share in modules.items()
        }
        for kind, modules in shares_by_kind.items()
    }
