"""The plan of a run: what `measure_step` counted, for the data of the run and the machines asked about."""

from collections.abc import Callable
from dataclasses import asdict

from mosld.common.files import JsonObject
from mosld.common.process import silence_libraries
from mosld.config.identity import identity, run_directory
from mosld.config.method_checks import experts_of
from mosld.config.schema import Config
from mosld.planning.arguments import PlanKeys
from mosld.planning.layouts import RESERVED_BYTES, first_fitting, layouts, peak
from mosld.planning.measure import StepNeeds, measure_step
from mosld.planning.workload import workload
from mosld.training.optim import recipe_warnings


def estimate(config: Config, keys: PlanKeys, measure: Callable[..., StepNeeds] = measure_step) -> JsonObject:
    """Model, method, exact parameters, memory, FLOPs, hours, and the layout of processes that fits.

    Args:
        config: of the run.
        keys: the machines.
        measure: counts a step in shapes; plans of many runs give one that remembers.

    Raises:
        UserError: rows of a local source that cannot be read.
    """
    silence_libraries()
    work = workload(config, keys.length, keys.answer)
    needs = measure(config, work.length, work.answer, keys.gpus)
    checkpointing = config.training.gradient_checkpointing
    experts = len(config.method.domains or []) or experts_of(config.method, config.allocation)
    base = needs.parameters["base"]
    assert isinstance(base, int)
    flops = _flops_per_token(needs, work.length, checkpointing)
    return {
        "model": config.model.name,
        "method": config.method.name,
        "experts": experts if config.method.kind == "mixture" else None,
        "parameters": needs.parameters,
        "data": {"name": config.data.name, **asdict(work)},
        "micro_batch": needs.rows,
        "memory": _memory(needs, RESERVED_BYTES if keys.gpus else 0),
        "flops_per_token": flops,
        **({"machines": _hours(flops, work.tokens, keys)} if keys.tflops else {}),
        **(_layouts(needs, checkpointing, keys) if keys.gpus else {}),
        "warnings": list(recipe_warnings(config.training, config.method.kind == "full", base, work.steps_per_epoch)),
        "run": str(run_directory(config)),
        "config_hash": identity(config),
    }


def _memory(needs: StepNeeds, reserved: int) -> dict[str, int | None]:
    """Bytes of one device where nothing is sharded, by part, and the peak of them all."""
    return {
        "weights": needs.sizes.weights,
        "adapter": needs.sizes.adapter,
        "gradients": needs.plain.gradients,
        "optimiser": needs.sizes.optimiser,
        "activations": needs.plain.saved,
        "activations_checkpointing": needs.saving.saved if needs.saving else None,
        "reserved": reserved,
        "peak": peak(needs.sizes, needs.plain) + reserved,
        "peak_checkpointing": peak(needs.sizes, needs.saving) + reserved if needs.saving else None,
    }


def _flops_per_token(needs: StepNeeds, length: int, checkpointing: bool) -> dict[str, float | None]:
    """FLOPs per token of the longest rows: as the run is configured, and with gradient checkpointing."""
    cost = needs.saving if checkpointing and needs.saving else needs.plain
    tokens = needs.rows * length
    return {
        "forward": cost.forward_flops / tokens,
        "training": cost.flops / tokens,
        "training_checkpointing": needs.saving.flops / tokens if needs.saving else None,
    }


def _hours(flops: dict[str, float | None], tokens: int, keys: PlanKeys) -> JsonObject:
    """The machines that are asked about, and the hours on them."""
    assert keys.tflops
    flops_per_hour = max(keys.gpus, 1) * keys.tflops * 1e12 * keys.utilisation * 3600
    hours = {name: None if size is None else tokens * size / flops_per_hour for name, size in flops.items()}
    return {
        **asdict(keys),
        "gpu_tflops": keys.tflops,
        "hours": hours["training"],
        "hours_checkpointing": hours["training_checkpointing"],
    }


def _layouts(needs: StepNeeds, checkpointing: bool, keys: PlanKeys) -> JsonObject:
    """Bytes on each GPU by layout, and the layout that fits."""
    plain = layouts(needs.sizes, needs.plain, keys.gpus)
    saving = layouts(needs.sizes, needs.saving, keys.gpus) if needs.saving else plain
    fitting = first_fitting(saving if checkpointing else plain, keys.memory_bytes)
    fitting_saving = first_fitting(saving, keys.memory_bytes)
    return {
        "layouts": {"plain": plain, "checkpointing": saving if needs.saving else None},
        "accelerate": fitting or fitting_saving,
        "checkpointing": checkpointing,
        "needs_checkpointing": fitting is None and fitting_saving is not None,
    }
