"""The stages of a sweep: plan and check every job, let Hydra's sweeper and launcher run them, sum up."""

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra

from mosld.cli import FINISHED, INTERRUPTED, JOBS_FAILED
from mosld.common.errors import UserError
from mosld.common.process import is_main, several
from mosld.config.groups import config_directory
from mosld.config.identity import run_directory
from mosld.config.sweep import Sweep, plan_sweep
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.sweeps.job import JobFailedError, SweepJob, clear_records, described
from mosld.sweeps.summary import summarise, summary_table
from mosld.sweeps.worker import StopFlag, run_in_worker
from mosld.tracking.hub import require_token

ENDS = {  # exit code, and what to do next
    "finished": (FINISHED, "every job finished"),
    "interrupted": (INTERRUPTED, "interrupted; the same command goes on with what is missing"),
    "failed": (JOBS_FAILED, "some jobs did not finish; the same command tries them again, and only them"),
}


def sweep(arguments: list[str]) -> int:
    """Run what is missing of a sweep and show its table; returns the exit code."""
    plan = plan_sweep(arguments)
    if is_main():
        check_jobs(plan)  # of several processes one is enough: its launcher ends the others
    if not several():
        return run_jobs(plan, run_in_worker)
    from mosld.sweeps.ranks import Ranks

    ranks = Ranks()
    if not is_main():
        with _stop_on_signal(StopFlag(plan.directory)):
            return ranks.serve()
    code = run_jobs(plan, ranks.run_job)
    ranks.end(code)
    return code


def check_jobs(plan: Sweep) -> None:
    """Read the rows of every job, and look at the runs that are there.

    Raises:
        UserError: with one message for each mistake.
    """
    mistakes: dict[str, None] = {}
    for job in plan.jobs:
        run = RunDirectory(run_directory(job.config))
        try:
            require_token(job.config)
            rows = described(job.config)
            if run.finished() and job.config.training.resume == "auto":
                found = run.differences(job.config, rows)
                mistakes.update(dict.fromkeys(f"{run.path} holds another run: {line}" for line in found))
        except UserError as error:
            mistakes.update(dict.fromkeys(error.messages))
    if mistakes:
        raise UserError(*mistakes)


def run_jobs(plan: Sweep, start: Callable[..., Any]) -> int:
    """Run every job that is not finished, sum up, and return the exit code.

    Args:
        plan: the checked sweep.
        start: starts a job in processes of its own, as `run_in_worker` does.
    """
    console, stop, started = Console(), StopFlag(plan.directory), time.perf_counter()
    (plan.directory / "jobs").mkdir(parents=True, exist_ok=True)
    stop.withdraw()
    clear_records(plan.directory)
    job = SweepJob(plan.directory, len(plan.jobs), plan.launcher, start)
    console.say(f"sweep {plan.name}: {_count(plan)}")
    with _stop_on_signal(stop):
        trouble = _multirun(plan, job)
    summary = summarise(plan, round(time.perf_counter() - started, 3), trouble, stop.requested())
    console.show(summary_table(summary))
    code, advice = ENDS[summary["status"]]
    console.say(advice)
    print(plan.directory)
    return code


def _count(plan: Sweep) -> str:
    """How many jobs there are, and how many say the same as another: allocations of a method without experts."""
    runs = [run_directory(job.config) for job in plan.jobs]
    double = len(runs) - len(set(runs))
    count = f"{len(runs)} jobs" if runs else "jobs as its sweeper chooses"
    return f"{count}, {double} of them the same run as another, made once" if double else count


def _multirun(plan: Sweep, job: SweepJob) -> str:
    """Hydra's own way from the arguments of -m to a call of `job` for each; returns an error of the way itself."""
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("mosld", create_config_search_path(str(config_directory())))
    try:
        hydra.multirun("config", job, plan.arguments, with_log_configuration=False)
    except (KeyboardInterrupt, JobFailedError):
        pass
    except Exception as error:  # a sweeper without one result, a launcher whose job was cancelled: the others count
        if plan.jobs:
            traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return ""


@contextmanager
def _stop_on_signal(stop: StopFlag) -> Iterator[None]:
    """Let signals leave the stop file, which every job looks at; a second Ctrl-C waits for nothing."""
    pressed = 0

    def handle(number: int, frame: FrameType | None) -> None:
        """Ask the jobs to stop; raise at the second Ctrl-C."""
        nonlocal pressed
        pressed += number == signal.SIGINT
        stop.request()
        if pressed > 1:
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
