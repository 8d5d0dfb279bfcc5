"""A sweep under torchrun or `accelerate launch`: all ranks start every job together and stay for the next one.

Each rank runs its part of a job in a worker with a rendezvous of its own, so a job that fails on one rank ends on all
of them and the next job starts fresh. The first rank chooses the jobs; the others serve.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mosld.common.errors import ExitCode
from mosld.sweeps.worker import POLL_SECONDS, StopFlag, Worker, WorkerExit

if TYPE_CHECKING:
    from torch.distributed import Store

# What the other ranks get to exit by themselves after one failed, and again after being asked to.
EXIT_WAIT_SECONDS = 30.0


class Ranks:
    """The processes of a launch."""

    def __init__(self) -> None:
        from torch.distributed import rendezvous

        self._rank = int(os.environ["RANK"])
        self._count = int(os.environ["WORLD_SIZE"])
        self._store: Store = next(rendezvous("env://"))[0]
        self._jobs = 0

    def run_job(
        self, overrides: list[str], stop: StopFlag, environment: Mapping[str, str], log: Path | None
    ) -> WorkerExit:
        """Start a job on all ranks, as `run_in_worker` does on one; returns how the first failure ended it."""
        port = _free_port()
        self._store.set(f"mosld/job{self._jobs}", json.dumps([overrides, str(stop.directory), port]))
        return self._take_part(overrides, stop, port)

    def serve(self) -> str:
        """Take part in every job until the first rank ends the sweep; returns the sweep's status."""
        while True:
            if self._store.check(["mosld/end"]):
                self._store.set(f"mosld/bye{self._rank}", "")
                return self._store.get("mosld/end").decode()
            if self._store.check([f"mosld/job{self._jobs}"]):
                overrides, directory, port = json.loads(self._store.get(f"mosld/job{self._jobs}"))
                self._take_part(overrides, StopFlag(Path(directory)), port)
            time.sleep(POLL_SECONDS)

    def end(self, status: str) -> None:
        """Tell the others how the sweep ended, and wait until they know: the first rank may keep the store."""
        self._store.set("mosld/end", status)
        limit = time.monotonic() + EXIT_WAIT_SECONDS
        while not self._all("bye", range(1, self._count)) and time.monotonic() < limit:
            time.sleep(POLL_SECONDS)

    def _take_part(self, overrides: list[str], stop: StopFlag, port: int) -> WorkerExit:
        """This rank's part of a job; returns when all ranks have ended theirs."""
        job = self._jobs
        self._jobs += 1
        # The launcher's store keeps what the first job wrote there: every job gets its own store on the first rank.
        environment = {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
        worker = Worker(overrides, stop, environment, log=None)
        failed_at = 0.0
        while not (ended := worker.poll()):
            if self._store.check([f"mosld/failed{job}"]):
                failed_at = failed_at or time.monotonic()
                waited = time.monotonic() - failed_at
                if waited > 2 * EXIT_WAIT_SECONDS:
                    worker.kill()
                elif waited > EXIT_WAIT_SECONDS:
                    worker.request_stop()
        if ended.code not in (ExitCode.FINISHED, ExitCode.INTERRUPTED):
            report = json.dumps([ended.code, ended.message])
            self._store.compare_set(f"mosld/failed{job}", "", report)
            # A rank that failed because of another has no message; the first cause stays.
            if ended.message:
                self._store.compare_set(f"mosld/cause{job}", "", report)
        self._store.set(f"mosld/ended{job}-{self._rank}", "")
        while not self._all(f"ended{job}-", range(self._count)):
            time.sleep(POLL_SECONDS)
        for key in (f"mosld/cause{job}", f"mosld/failed{job}"):
            if self._store.check([key]):
                return WorkerExit(*json.loads(self._store.get(key)))
        return ended

    def _all(self, key: str, ranks: range) -> bool:
        return all(self._store.check([f"mosld/{key}{rank}"]) for rank in ranks)


def _free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
