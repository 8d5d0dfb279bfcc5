"""The plan of a run: what `needs` measured, for the data at hand and the machines that are asked about."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from mosld.common.process import silence_libraries
from mosld.config.identity import identity, run_directory
from mosld.config.method_checks import experts_of
from mosld.config.schema import Config
from mosld.planning.arguments import PlanKeys
from mosld.planning.layouts import RESERVED, first_fitting, layouts, peak
from mosld.planning.measure import StepNeeds, needs
from mosld.planning.workload import Workload, workload


def estimate(config: Config, keys: PlanKeys, measure: Callable[..., StepNeeds] = needs) -> dict[str, Any]:
    """Model, method, exact parameters, memory, FLOPs, hours, and where the run would lie.

    Args:
        config: of the run.
        keys: the machines.
        measure: takes the step in shapes; plans of many runs give one that remembers.

    Raises:
        UserError: rows of a local source that cannot be read.
    """
    silence_libraries()
    work = workload(config, keys.length, keys.answer)
    found = measure(config, work.length, work.answer, keys.gpus)
    experts = len(config.method.domains or []) or experts_of(config.method, config.allocation)
    return {
        "model": config.model.name,
        "method": config.method.name,
        "experts": experts if config.method.kind == "mixture" else None,
        "parameters": found.parameters,
        "data": asdict(work),
        "micro_batch": found.rows,
        "memory": _memory(found, config, keys),
        "flops_per_token": _flops(found, config, work),
        **(_hours(found, config, work, keys) if keys.tflops else {}),
        **(_layouts(found, config, keys) if keys.gpus else {}),
        "run": str(run_directory(config)),
        "config_hash": identity(config),
    }


def _memory(found: StepNeeds, config: Config, keys: PlanKeys) -> dict[str, Any]:
    """The parts of a device's memory in bytes where nothing is cut among several, and the peak with them all."""
    reserved = RESERVED if keys.gpus else 0
    return {
        "weights": found.sizes.weights,
        "adapter": found.sizes.adapter,
        "gradients": found.plain.gradients,
        "optimiser": found.sizes.optimiser,
        "activations": found.plain.saved,
        "activations_checkpointing": found.saving.saved if found.saving else None,
        "reserved": reserved,
        "peak": peak(found.sizes, found.plain) + reserved,
        "peak_checkpointing": peak(found.sizes, found.saving) + reserved if found.saving else None,
    }


def _flops(found: StepNeeds, config: Config, work: Workload) -> dict[str, float | None]:
    """FLOPs for each token of the longest rows: as the run is configured, and with recomputing."""
    cost = found.saving if config.training.gradient_checkpointing and found.saving else found.plain
    tokens = found.rows * work.length
    recomputing = found.saving.flops / tokens if found.saving else None
    return {
        "forward": cost.forward_flops / tokens,
        "training": cost.flops / tokens,
        "training_checkpointing": recomputing,
    }


def _hours(found: StepNeeds, config: Config, work: Workload, keys: PlanKeys) -> dict[str, Any]:
    """The machines that are asked about, and the hours on them."""
    assert keys.tflops
    speed = max(keys.gpus, 1) * keys.tflops * 1e12 * keys.utilisation * 3600  # FLOPs an hour
    flops = _flops(found, config, work)
    hours = {name: None if size is None else work.tokens * size / speed for name, size in flops.items()}
    return {
        "machines": {
            **asdict(keys),
            "gpu_tflops": keys.tflops,
            "hours": hours["training"],
            "hours_checkpointing": hours["training_checkpointing"],
        }
    }


def _layouts(found: StepNeeds, config: Config, keys: PlanKeys) -> dict[str, Any]:
    """Bytes on each GPU by layout, and the layout that fits."""
    plain = layouts(found.sizes, found.plain, keys.gpus)
    saving = layouts(found.sizes, found.saving, keys.gpus) if found.saving else plain
    chosen = saving if config.training.gradient_checkpointing else plain
    fitting = first_fitting(chosen, keys.memory_bytes)
    return {
        "layouts": {"plain": plain, "checkpointing": saving if found.saving else None},
        "accelerate": fitting or first_fitting(saving, keys.memory_bytes),
        "checkpointing": config.training.gradient_checkpointing,
        "needs_checkpointing": fitting is None and first_fitting(saving, keys.memory_bytes) is not None,
    }
