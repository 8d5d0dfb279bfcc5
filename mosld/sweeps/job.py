"""One job of a sweep, as Hydra's launchers call it: skipped if its run is finished, else trained in a worker.

Each job leaves jobs/<number>.json in the sweep's directory, wherever it ran; the summary is made from these records.
"""

import dataclasses
import functools
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mosld.common.errors import ExitCode, UserError
from mosld.common.files import read_json, write_json
from mosld.config.compose import load_config
from mosld.config.identity import run_directory
from mosld.config.schema import Config, DataConfig, SourceConfig
from mosld.config.sweep import job_overrides
from mosld.data.dataset import load_dataset
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.power import smallest_on_average
from mosld.sweeps.summary import validation_score
from mosld.sweeps.worker import StopFlag, WorkerExit, run_in_worker

StartJob = Callable[[list[str], StopFlag, Mapping[str, str], Path | None], WorkerExit]
Record = dict[str, object]

STATUS = {
    ExitCode.FINISHED: "finished",
    ExitCode.DIVERGED: "diverged",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.STOPPED: "interrupted",
    # Asked to stop before the handler of its signals was installed.
    -signal.SIGTERM: "interrupted",
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
        start: trains a job in workers, as `run_in_worker` does.
    """

    directory: Path
    total: int
    launcher: str
    start: StartJob = run_in_worker

    def __call__(self, cfg: DictConfig) -> float:
        """Train the job that Hydra's config names; returns its `validation_score`, nan where there is none.

        Raises:
            KeyboardInterrupt: the sweep is asked to stop, and jobs run one after the other in this process.
            JobFailedError: it did not finish, and the sweeper learns from results.
        """
        hydra = HydraConfig.get()
        number = int(hydra.job.num)
        stop = StopFlag(self.directory)
        if self.launcher == "joblib":
            # Ctrl-C is for the sweep, which asks the jobs by its stop file. Only a main thread can ignore it.
            with suppress(ValueError):
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        if not stop.requested():
            self._train(number, job_overrides(hydra.overrides.task), stop)
        record = read_json(self.directory / "jobs" / f"{number + 1}.json") or {}
        if stop.requested() and self.launcher == "basic":
            raise KeyboardInterrupt
        score = validation_score(record)
        if self.total == 0 and score is None:
            raise JobFailedError(record.get("error") or record.get("status", "not started"))
        return float("nan") if score is None else float(score)

    def _train(self, number: int, overrides: list[str], stop: StopFlag) -> None:
        config = load_config(overrides)
        grouped = [*overrides, *(self._dashboard_group(overrides) if config.logger.name == "wandb" else [])]
        run = RunDirectory(run_directory(config))
        console = Console()
        finished_before = _is_finished(run, config)
        ended = WorkerExit(ExitCode.FINISHED)
        with self._job_environment() as environment:
            is_first_rank = environment.get("RANK", "0") == "0"
            if is_first_rank and not finished_before:
                console.say(f"\n{self._title(number)}: {' '.join(overrides)}")
            if not finished_before:
                log = self.directory / "jobs" / f"{number + 1}.log" if self.launcher == "joblib" else None
                ended = self.start(grouped, stop, environment, log)
        if not is_first_rank:
            return
        record = _record(number, overrides, run, ended, checked=config.check)
        write_json(self.directory / "jobs" / f"{number + 1}.json", record)
        when = " before" if finished_before else ""
        console.say(f"{self._title(number)} {record['status']}{when}: {record['error'] or run.path}")

    @contextmanager
    def _job_environment(self) -> Iterator[dict[str, str]]:
        """The variables that tell a job its rank or its device."""
        if self.launcher == "joblib":
            with reserved_device(self.directory / "jobs") as device:
                yield device
        else:
            yield submitit_rank() if self.launcher.startswith("submitit") else {}

    def _dashboard_group(self, overrides: list[str]) -> list[str]:
        """The sweep is the group on a dashboard, unless logger.group is given."""
        given = any(text.startswith("logger.group=") for text in overrides)
        return [] if given else [f"logger.group={self.directory.name}"]

    def _title(self, number: int) -> str:
        return f"job {number + 1}" + (f" of {self.total}" if self.total else "")


def submitit_rank() -> dict[str, str]:
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
def reserved_device(directory: Path) -> Iterator[dict[str, str]]:
    """Reserve a GPU among jobs that run at the same time: each takes the first slot that no other holds.

    Args:
        directory: where slots are kept as locked files, which the system unlocks when their process ends.
    """
    with ExitStack() as stack:
        for slot in itertools.count():
            with suppress(Timeout):
                stack.enter_context(FileLock(directory / f".place{slot}", blocking=False))
                break
        devices = _visible_devices()
        yield {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if devices else {}


def _visible_devices() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA takes."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    import torch

    # Counting devices does not initialise CUDA.
    return [str(device) for device in range(torch.cuda.device_count())]


def describe_rows(data: DataConfig, source: SourceConfig) -> dict[str, object]:
    """What identifies the rows of a job; read once in a process for all jobs with the same data.

    Raises:
        UserError: as `load_dataset`.
    """
    return _describe_rows(json.dumps(dataclasses.asdict(data)), json.dumps(dataclasses.asdict(source)))


@functools.cache
def _describe_rows(data: str, source: str) -> dict[str, object]:
    return load_dataset(DataConfig(**json.loads(data)), SourceConfig(**json.loads(source))).describe()


def clear_records(directory: Path) -> None:
    """Remove the records of an earlier start."""
    for path in (*directory.glob("jobs/*.json"), *directory.glob("jobs/*.log")):
        path.unlink()


def _is_finished(run: RunDirectory, config: Config) -> bool:
    """Whether the run is there, whole, and of the same rows."""
    if config.check or config.training.resume != "auto" or not run.finished() or run.end_faults():
        return False
    try:
        return not run.differences(config, describe_rows(config.data, config.source))
    except UserError:
        # The run itself reports it.
        return False


def _record(number: int, overrides: Sequence[str], run: RunDirectory, ended: WorkerExit, checked: bool) -> Record:
    """A job as the summary shows it. Results are those of this start: their status is that of the worker's exit."""
    passed = checked and ended.code == ExitCode.FINISHED
    status = "passed the check" if passed else STATUS.get(ended.code, "failed")
    results = read_json(run.results) or {}
    if results.get("status") != status:
        results = {}
    scored = [(score["accuracy"], score["n"]) for score in (results.get("scores") or {}).values()]
    explained = status in ("finished", "passed the check", "interrupted")
    return {
        "job": number + 1,
        "overrides": list(overrides),
        "run": str(run.path),
        "status": status,
        "average": results.get("average"),
        "validation_average": results.get("validation_average"),
        "smallest_difference": smallest_on_average(scored) if scored else None,
        "validation_loss": results.get("validation_loss"),
        "best_by": results.get("best_by"),
        "seconds": results.get("seconds"),
        "error": None if explained else ended.message or results.get("error") or status,
    }
