"""A job of a sweep, as Hydra's launchers call it: found finished, or trained in a process of its own, and recorded.

Each job leaves jobs/<number>.json in the sweep's directory, wherever it ran: the summary is made from these records.
"""

import dataclasses
import fcntl
import functools
import itertools
import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mosld.cli import DIVERGED, FINISHED, INTERRUPTED, STOPPED
from mosld.common.errors import UserError
from mosld.common.files import write_json
from mosld.config.compose import load_config
from mosld.config.identity import run_directory
from mosld.config.schema import Config, DataConfig, SourceConfig
from mosld.config.sweep import job_overrides
from mosld.data.dataset import load_dataset
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.sweeps.worker import StopFlag, WorkerExit, run_in_worker

# PART: Where a job of a sweep runs: which rank of its job it is in Slurm, which accelerator it has among other
# jobs.


def task_environment() -> dict[str, str]:
    """The variables of torch.distributed for a task of submitit, which starts functions and no launcher."""
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if JobEnvironment().num_tasks == 1:
        return {}
    task = TorchDistributedEnvironment()
    return {
        "RANK": str(task.rank),
        "WORLD_SIZE": str(task.world_size),
        "LOCAL_RANK": str(task.local_rank),
        "LOCAL_WORLD_SIZE": str(task.local_world_size),
        "MASTER_ADDR": task.master_addr,
        "MASTER_PORT": str(task.master_port),
    }


@contextmanager
def own_device(directory: Path) -> Iterator[dict[str, str]]:
    """The accelerator of a job among others at the same time: each takes the first place that none of them holds.

    Args:
        directory: where the places are kept, as files that the system unlocks with their process.
    """
    for place in itertools.count():
        with (directory / f".place{place}").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            devices = _devices()
            yield {"CUDA_VISIBLE_DEVICES": devices[place % len(devices)]} if devices else {}
            return


def _devices() -> list[str]:
    """Those that this process may use, by the names that CUDA takes."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    import torch

    return [str(device) for device in range(torch.cuda.device_count())]  # counts without beginning to use one


# PART: A job of a sweep, as Hydra's launchers call it: found finished, or trained in a process of its own, and
# recorded. Each job leaves jobs/<number>.json in the sweep's directory, wherever it ran: the summary is made from
# these records.


STATUS = {
    FINISHED: "finished",
    DIVERGED: "diverged",
    INTERRUPTED: "interrupted",
    STOPPED: "interrupted",
    -signal.SIGTERM: "interrupted",  # asked to end before it could take the wish
}


class JobFailedError(RuntimeError):
    """A job did not finish; its record says why."""


@dataclass(frozen=True)
class SweepJob:
    """Trains one job; Hydra's task function.

    Attributes:
        directory: the sweep's.
        total: how many jobs there are; 0 where the sweeper chooses as it goes.
        launcher: Hydra's name of the launcher.
        start: starts a job in processes of its own, as `run_in_worker` does.
    """

    directory: Path
    total: int
    launcher: str
    start: Any = run_in_worker

    def __call__(self, cfg: DictConfig) -> float:
        """Train the job that Hydra's config names; returns its validation accuracy, nan where there is none.

        Raises:
            KeyboardInterrupt: the sweep is asked to stop, and jobs run one after the other in this process.
            JobFailedError: it did not finish, and a sweeper that learns from results is to know.
        """
        hydra = HydraConfig.get()
        number, overrides = int(hydra.job.num), job_overrides(hydra.overrides.task)
        stop = StopFlag(self.directory)
        if self.launcher == "joblib":
            with suppress(ValueError):  # not in the main thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which asks by its stop file
        if not stop.requested():
            self._train(number, overrides, stop)
        record = read_record(self.directory, number)
        if stop.requested() and self.launcher == "basic":
            raise KeyboardInterrupt
        score = record.get("validation_average")
        if self.total == 0 and score is None:
            raise JobFailedError(record.get("error") or record.get("status", "not started"))
        return float("nan") if score is None else float(score)

    def _train(self, number: int, overrides: list[str], stop: "StopFlag") -> None:
        grouped = [*overrides, *self._group(overrides)]
        config = load_config(grouped)
        run, console = RunDirectory(run_directory(config)), Console()
        ended, before = WorkerExit(FINISHED), _finished(run, config)
        with self._place() as environment:
            main = environment.get("RANK", "0") == "0"
            if main and not before:
                console.say(f"\n{self._title(number)}: {' '.join(overrides)}")
            if not before:
                log = self.directory / "jobs" / f"{number + 1}.log" if self.launcher == "joblib" else None
                ended = self.start(grouped, stop, environment, log)
        if not main:
            return
        record = _record(number, overrides, run, config, ended, _read(run.results))
        write_json(self.directory / "jobs" / f"{number + 1}.json", record)
        when = " before" if before else ""
        console.say(f"{self._title(number)} {record['status']}{when}: {record['error'] or run.path}")

    @contextmanager
    def _place(self) -> Iterator[dict[str, str]]:
        """What a job's environment says of its ranks or of its device."""
        if self.launcher == "joblib":
            with own_device(self.directory / "jobs") as device:
                yield device
        else:
            yield task_environment() if self.launcher.startswith("submitit") else {}

    def _group(self, overrides: list[str]) -> list[str]:
        """The sweep is the group on a dashboard, unless another was given."""
        given = any(text.startswith("logger.group=") for text in overrides)
        return [] if given else [f"logger.group={self.directory.name}"]

    def _title(self, number: int) -> str:
        return f"job {number + 1}" + (f" of {self.total}" if self.total else "")


def described(config: Config) -> dict[str, Any]:
    """What identifies the rows of a job; read once in a process for all jobs with the same data.

    Raises:
        UserError: as `load_dataset`.
    """
    return _rows(json.dumps(dataclasses.asdict(config.data)), json.dumps(dataclasses.asdict(config.source)))


@functools.cache
def _rows(data: str, source: str) -> dict[str, Any]:
    return load_dataset(DataConfig(**json.loads(data)), SourceConfig(**json.loads(source))).describe()


def read_record(directory: Path, number: int) -> dict[str, Any]:
    """What is known of a job; empty where it has not been started."""
    return _read(directory / "jobs" / f"{number + 1}.json")


def clear_records(directory: Path) -> None:
    """Forget how the jobs of an earlier start ended."""
    for path in (*directory.glob("jobs/*.json"), *directory.glob("jobs/*.log")):
        path.unlink()


def _finished(run: RunDirectory, config: Config) -> bool:
    """Whether there is nothing to do: the run is there, whole, and of the same rows."""
    if config.check or config.training.resume != "auto" or not run.finished():
        return False
    try:
        return not run.differences(config, described(config))
    except UserError:  # told by the run itself
        return False


def _record(
    number: int, overrides: Sequence[str], run: RunDirectory, config: Config, ended: WorkerExit, results: dict[str, Any]
) -> dict[str, Any]:
    """A job as the summary shows it; a run that ended otherwise than its process says nothing."""
    status = "passed the check" if config.check and ended.code == FINISHED else STATUS.get(ended.code, "failed")
    results = results if results.get("status") == status else {}
    known = status in ("finished", "passed the check", "interrupted")
    return {
        "job": number + 1,
        "overrides": list(overrides),
        "run": str(run.path),
        "status": status,
        "average": results.get("average"),
        "validation_average": results.get("validation_average"),
        "seconds": results.get("seconds"),
        "error": None if known else ended.message or results.get("error") or status,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
