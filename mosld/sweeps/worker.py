"""One training run in a child process: whatever it does to memory and global state ends with it.

Without CUDA the child is a fork of this process, which has imported torch, so it starts at once. It ends with its
parent, however the parent ends.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from mosld.common.errors import UserError
from mosld.common.process import is_main, run_to_exit_code, silence_imports
from mosld.common.secrets import redact
from mosld.common.terminal import print_result
from mosld.recipes.request import check_request
from mosld.training.signals import stop_signals

if TYPE_CHECKING:
    # Windows has no ForkContext.
    from multiprocessing.context import ForkContext, SpawnContext

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class WorkerExit:
    """How a worker ended.

    Attributes:
        code: its exit code, or minus the signal that killed it.
        message: what went wrong, where it could still say so.
    """

    code: int
    message: str = ""


@dataclass(frozen=True)
class StopFlag:
    """A request to stop the sweep, as a file in its directory: every process on every machine sees it."""

    directory: Path

    @property
    def _file(self) -> Path:
        return self.directory / "stop"

    def requested(self) -> bool:
        """Whether the sweep is asked to stop."""
        return self._file.exists()

    def request(self) -> None:
        """Ask every job to save and exit."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._file.touch()

    def clear(self) -> None:
        """Remove the request of an earlier start."""
        self._file.unlink(missing_ok=True)


class Worker:
    """A training run in a child process.

    Attributes:
        stop: asks the worker to exit after its current step.
    """

    def __init__(self, overrides: list[str], stop: StopFlag, environment: Mapping[str, str], log: Path | None) -> None:
        """Start the child.

        Args:
            overrides: of the run.
            stop: the sweep's.
            environment: added to the child's own.
            log: a file for what the child prints; None: this process's own output.
        """
        context = _process_context()
        receiver, sender = context.Pipe(duplex=False)
        self.stop = stop
        self._receiver = receiver
        self._stop_sent = False
        # A daemon is asked to exit when this process exits in an orderly way.
        self._child = context.Process(target=_train, args=(overrides, dict(environment), log, sender), daemon=True)
        self._child.start()
        sender.close()

    def poll(self) -> WorkerExit | None:
        """How the worker ended; None while it runs. Waits up to `POLL_SECONDS` and forwards a request to stop."""
        self._child.join(POLL_SECONDS)
        if self._child.is_alive():
            if self.stop.requested() and not self._stop_sent:
                self.request_stop()
            return None
        code = self._child.exitcode or 0
        with suppress(EOFError):
            return WorkerExit(code, self._receiver.recv())
        return WorkerExit(code, f"killed by {signal.Signals(-code).name}" if code < 0 else "")

    def request_stop(self) -> None:
        """Ask the worker to save a checkpoint and exit after the current step."""
        self._stop_sent = True
        self._child.terminate()

    def kill(self) -> None:
        """End the worker at once."""
        self._child.kill()


def run_in_worker(overrides: list[str], stop: StopFlag, environment: Mapping[str, str], log: Path | None) -> WorkerExit:
    """Train one run in a child process and wait for its end; the arguments are those of `Worker`."""
    worker = Worker(overrides, stop, environment, log)
    while not (ended := worker.poll()):
        pass
    return ended


def _process_context() -> "ForkContext | SpawnContext":
    import torch

    # All that a run needs, imported once for all jobs.
    import mosld.recipes.train  # noqa: F401

    # CUDA cannot be used in a fork of a process that only asked whether it is there, as some library may have done;
    # macOS aborts many libraries in a fork, and Windows has none. There each job imports everything again, which takes
    # some seconds.
    if torch.cuda.device_count() or sys.platform == "darwin" or not hasattr(os, "fork"):
        return multiprocessing.get_context("spawn")
    return multiprocessing.get_context("fork")


def _train(overrides: list[str], environment: dict[str, str], log: Path | None, sender: Connection) -> None:
    """The child: train as the command does, and tell the parent what went wrong."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    silence_imports()
    for number in stop_signals():
        signal.signal(number, signal.default_int_handler)
    if hasattr(signal, "SIGUSR2"):
        # submitit's signal: the parent queues the job again and asks this process to stop.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.environ.update(environment)
    if log:
        sys.stdout = sys.stderr = log.open("a", buffering=1)
        for stream in (1, 2):
            os.dup2(sys.stdout.fileno(), stream)

    def work() -> int:
        try:
            request = check_request(overrides)
            from mosld.recipes.train import train_run

            result = train_run(request, wait=True)
        except Exception as error:
            sender.send(_describe(error))
            raise
        if is_main() and result.status != "checked":
            print_result(result.path)
        return result.exit_code

    sys.exit(run_to_exit_code(work))


def _describe(error: Exception) -> str:
    """The error in one text; empty where another process of the run failed first and this one because of it."""
    from mosld.distributed.processes import processes

    if processes().another_failed():
        return ""
    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return redact(f"{name}{error}")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)
