"""The plan of every run of a sweep or an experiment; what several runs have in common is computed once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from mosld.common.errors import UserError
from mosld.common.files import JsonObject
from mosld.config.identity import run_directory
from mosld.config.schema import Config
from mosld.config.sweep import Job, Sweep, varying
from mosld.planning.arguments import PlanKeys
from mosld.planning.estimate import estimate
from mosld.planning.measure import StepNeeds, measure_step


def estimate_jobs(
    sweep: Sweep,
    keys: PlanKeys,
    measure: Callable[..., StepNeeds] | None = None,
    track: Callable[[Sequence[Job]], Iterable[Job]] = iter,
) -> list[JsonObject]:
    """The plan of each run that the sweep makes, with its `overrides`: those that not all jobs share.

    Jobs that are the same run are listed once, as they are trained once.

    Args:
        sweep: its jobs, checked.
        keys: the machines.
        measure: what remembers the steps of other sweeps, too (`remembering`).
        track: wraps the jobs, for a progress bar.

    Raises:
        UserError: the sweeper chooses its jobs as it goes.
    """
    if not sweep.jobs:
        raise UserError(
            f"{sweep.name.rpartition('-')[0]}: its sweeper chooses the jobs as it goes; plan one of them, as in "
            "method.rank=8, and multiply."
        )
    measure = measure or remembering()
    plans: dict[str, JsonObject] = {}
    everything = [job.overrides for job in sweep.jobs]
    for job in track(sweep.jobs):
        run = str(run_directory(job.config))
        if run not in plans:
            plans[run] = {"overrides": varying(job.overrides, everything), **estimate(job.config, keys, measure)}
    return list(plans.values())


def remembering(measure: Callable[..., StepNeeds] = measure_step) -> Callable[..., StepNeeds]:
    """`measure` with a memory: runs that differ only in seed, learning rate or dropout ratio share one measurement."""
    known: dict[str, StepNeeds] = {}

    def remembered(config: Config, length: int, answer: int, gpus: int) -> StepNeeds:
        key = repr((_shaping(config), length, answer, gpus))
        if key not in known:
            known[key] = measure(config, length, answer, gpus)
        return known[key]

    return remembered


def _shaping(config: Config) -> tuple[object, ...]:
    """The parts of a config that a measured step depends on. Of dropout it matters only whether there is any."""
    training = config.training
    method = replace(config.method, dropout=0.5 if config.method.dropout else 0.0, own_learning_rate=None)
    sizes = (training.batch_size, training.micro_batch_size)
    return (config.model, method, config.allocation, training.optimizer, *sizes)


def summed(plans: Sequence[JsonObject]) -> JsonObject:
    """Hours of all runs one after another on the whole machine, and how many runs fit on no layout."""
    hours = sum(hours_of(plan) for plan in plans)
    return {
        "runs": len(plans),
        "hours": hours,
        "gpu_hours": hours * plans[0]["machines"]["gpus"],
        "not_fitting": sum("layouts" in plan and plan["accelerate"] is None for plan in plans),
    }


def hours_of(plan: JsonObject) -> float:
    """Hours of a run in the form in which it fits: recomputing where it must."""
    machines = plan["machines"]
    return machines["hours_checkpointing" if plan.get("needs_checkpointing") else "hours"]
