"""A sweep: plan and check every job, let Hydra's sweeper and launcher run them, write the summary."""

import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra

from mosld.common.errors import UserError
from mosld.common.process import is_distributed, is_main
from mosld.config.identity import run_directory
from mosld.config.options import config_directory
from mosld.config.sweep import Sweep, plan_sweep
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.sweeps.job import JobFailedError, StartJob, SweepJob, clear_records, describe_rows
from mosld.sweeps.ranks import Ranks
from mosld.sweeps.summary import summarise, summary_table
from mosld.sweeps.worker import StopFlag, run_in_worker
from mosld.tracking.hub import require_token
from mosld.training.signals import stop_signals

ADVICE = {
    "finished": "every job finished",
    "interrupted": "interrupted; the same command runs what is missing",
    "failed": "some jobs did not finish; the same command tries them again, and only them",
}


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended: "finished", "interrupted" or "failed", and the directory of its summary."""

    status: str
    directory: Path


def run_sweep(arguments: list[str]) -> SweepResult:
    """Run what is missing of a sweep and show its table.

    Raises:
        UserError: with one message for each mistake in any job, before the first one starts.
    """
    plan = plan_sweep(arguments)
    if is_main():
        # One process is enough: the launcher ends the others.
        check_jobs(plan)
    if not is_distributed():
        return SweepResult(run_jobs(plan, run_in_worker), plan.directory)
    ranks = Ranks()
    if is_main():
        status = run_jobs(plan, ranks.run_job)
        ranks.end(status)
    else:
        with _stop_on_signal(StopFlag(plan.directory)):
            status = ranks.serve()
    return SweepResult(status, plan.directory)


def check_jobs(plan: Sweep) -> None:
    """Read the rows of every job, and look at the runs that are there.

    Raises:
        UserError: with one message for each mistake.
    """
    mistakes: dict[str, None] = {}
    for job in plan.jobs:
        run = RunDirectory(run_directory(job.config))
        try:
            require_token(job.config.hub)
            rows = describe_rows(job.config.data, job.config.source)
            if run.finished() and job.config.training.resume == "auto":
                differences = run.differences(job.config, rows)
                mistakes.update(dict.fromkeys(f"{run.path} holds another run: {line}" for line in differences))
        except UserError as error:
            mistakes.update(dict.fromkeys(error.messages))
    if mistakes:
        raise UserError(*mistakes)


def run_jobs(plan: Sweep, start: StartJob) -> str:
    """Run every job that is not finished and write the summary; returns the sweep's status.

    Args:
        plan: the checked sweep.
        start: trains a job in workers, as `run_in_worker` does.
    """
    started = time.perf_counter()
    console = Console()
    stop = StopFlag(plan.directory)
    (plan.directory / "jobs").mkdir(parents=True, exist_ok=True)
    stop.clear()
    clear_records(plan.directory)
    job = SweepJob(plan.directory, len(plan.jobs), plan.launcher, start)
    console.say(f"sweep {plan.name}: {_count(plan)}")
    with _stop_on_signal(stop):
        error = _multirun(plan, job)
    summary = summarise(plan, round(time.perf_counter() - started, 3), error, stop.requested())
    console.show(summary_table(summary))
    console.say(ADVICE[summary["status"]])
    return summary["status"]


def _count(plan: Sweep) -> str:
    """How many jobs there are, and how many are the same run: allocations of a method without experts, say."""
    runs = [run_directory(job.config) for job in plan.jobs]
    repeated = len(runs) - len(set(runs))
    count = f"{len(runs)} jobs" if runs else "jobs as its sweeper chooses"
    return f"{count}, {repeated} of them the same run as another, trained once" if repeated else count


def _multirun(plan: Sweep, job: SweepJob) -> str:
    """Let Hydra's sweeper and launcher call `job` for each job; returns their own error, empty where there is none."""
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("mosld", create_config_search_path(str(config_directory())))
    try:
        hydra.multirun("config", job, plan.arguments, with_log_configuration=False)
    except (KeyboardInterrupt, JobFailedError):
        pass
    except Exception as error:
        # A sweeper without one result, or a launcher whose job was cancelled: the other jobs count.
        if plan.jobs:
            traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return ""


@contextmanager
def _stop_on_signal(stop: StopFlag) -> Iterator[None]:
    """Turn signals into the stop file that every job reads; a second Ctrl-C raises at once."""
    pressed = 0

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal pressed
        pressed += number == signal.SIGINT
        stop.request()
        if pressed > 1:
            raise KeyboardInterrupt

    numbers = stop_signals()
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
