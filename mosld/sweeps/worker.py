"""A training command in a process of its own: what it does to memory, state and itself stays there.

Without CUDA the process is a fork of this one, which has torch imported: it starts at once. It ends with this one,
however that ends.
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

POLL = 0.2  # seconds


@dataclass(frozen=True)
class WorkerExit:
    """How a command ended: its exit code (minus the signal that killed it), and what it said of an error."""

    code: int
    message: str = ""


@dataclass(frozen=True)
class StopFlag:
    """The wish that a sweep ends, as a file in its directory: every process of it sees it, on every machine."""

    directory: Path

    def requested(self) -> bool:
        """Whether it is there."""
        return (self.directory / "stop").exists()

    def request(self) -> None:
        """Make it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "stop").touch()

    def withdraw(self) -> None:
        """Remove that of an earlier start."""
        (self.directory / "stop").unlink(missing_ok=True)


class Worker:
    """A training command that runs in a child of this process.

    Attributes:
        stop: what asks it to end after its step.
    """

    def __init__(self, overrides: list[str], stop: StopFlag, environment: Mapping[str, str], log: Path | None) -> None:
        """Start it; `environment` is added to its own, and `log` takes what it prints."""
        context = _context()
        receiver, sender = context.Pipe(duplex=False)
        self._receiver, self.stop, self._told = receiver, stop, False
        # A daemon is asked to end when this process exits in an orderly way.
        self._child = context.Process(target=_live, args=(overrides, dict(environment), log, sender), daemon=True)
        self._child.start()
        sender.close()

    def ended(self) -> WorkerExit | None:
        """How it ended; None while it runs. Waits a moment, and passes on the wish to stop."""
        self._child.join(POLL)
        if self._child.is_alive():
            if self.stop.requested() and not self._told:
                self.ask_to_end()
            return None
        code = self._child.exitcode or 0
        with suppress(EOFError):  # it said nothing
            return WorkerExit(code, self._receiver.recv())
        return WorkerExit(code, f"killed by {signal.Signals(-code).name}" if code < 0 else "")

    def ask_to_end(self) -> None:
        """Once: it saves its step and ends."""
        self._told = True
        self._child.terminate()

    def kill(self) -> None:
        """At once."""
        self._child.kill()


def run_in_worker(overrides: list[str], stop: StopFlag, environment: Mapping[str, str], log: Path | None) -> WorkerExit:
    """Train in a process of its own, to its end."""
    process = Worker(overrides, stop, environment, log)
    while not (ended := process.ended()):
        pass
    return ended


def _context() -> "multiprocessing.context.ForkContext | multiprocessing.context.SpawnContext":
    import torch

    import mosld.evaluation.scores  # a run imports it when it first scores
    import mosld.recipes.train  # noqa: F401 - all that a run needs, imported once for all of them

    # CUDA cannot be used in a fork of a process that only asked whether it is there, as some library may have done;
    # macOS aborts many libraries in a fork. Then each job imports all of it anew: some seconds.
    if torch.cuda.device_count() or sys.platform == "darwin":
        return multiprocessing.get_context("spawn")
    return multiprocessing.get_context("fork")


def _live(overrides: list[str], environment: dict[str, str], log: Path | None, sender: Connection) -> None:
    """The life of the child: `mosld.train` as a command, with a word to the parent on what went wrong."""
    from mosld.cli import run_command
    from mosld.common.secrets import hidden
    from mosld.train import USAGE, train_one

    threading.Thread(target=_end_with_parent, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # submitit's: the parent queues the job again, and asks this to end
    os.environ.update(environment)
    if log:
        sys.stdout = sys.stderr = log.open("a", buffering=1)
        for stream in (1, 2):
            os.dup2(sys.stdout.fileno(), stream)

    def command(arguments: list[str]) -> int:
        """The command; tells the parent of an error before it is dealt with as ever."""
        try:
            return train_one(arguments, waits=True)
        except Exception as error:
            from mosld.distributed.processes import processes

            name = "" if hasattr(error, "messages") else f"{type(error).__name__}: "
            sender.send("" if processes().failed_because_of_another() else hidden(f"{name}{error}"))
            raise

    sys.exit(run_command(command, USAGE, overrides))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)
