"""A sweep under torchrun or `accelerate launch`: the processes of the launch start every job together, and stay.

Each starts its part of a job as a child with a rendezvous of its own, so a job that fails on one rank ends on all of
them, and the next one begins from nothing. The first rank chooses the jobs; the others follow.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosld.cli import INTERRUPTED
from mosld.sweeps.worker import POLL, StopFlag, Worker, WorkerExit

GRACE = 30.0  # seconds that the other ranks have to end by themselves after one failed, and again after being asked to


class Ranks:
    """The processes of a launch."""

    def __init__(self) -> None:
        """Meet the others where the launcher says."""
        from torch.distributed import rendezvous

        self._rank, self._count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._store: Any = next(rendezvous("env://"))[0]
        self._jobs = 0

    def run_job(
        self, overrides: list[str], stop: StopFlag, environment: Mapping[str, str], log: Path | None
    ) -> WorkerExit:
        """Start a job on all ranks, as `run_in_worker` does on one; returns how the first failure ended it."""
        order = {"overrides": overrides, "directory": str(stop.directory), "port": _free_port()}
        self._store.set(f"mosld/job{self._jobs}", json.dumps(order))
        return self._take_part(order)

    def serve(self) -> int:
        """Take part in every job until the first rank says with which code to end."""
        while True:
            if self._store.check(["mosld/end"]):
                self._store.set(f"mosld/bye{self._rank}", "")
                return int(self._store.get("mosld/end"))
            if self._store.check([f"mosld/job{self._jobs}"]):
                self._take_part(json.loads(self._store.get(f"mosld/job{self._jobs}")))
            time.sleep(POLL)

    def end(self, code: int) -> None:
        """Let the others end with this code, and wait until they know: the first rank may keep the store."""
        self._store.set("mosld/end", str(code))
        limit = time.monotonic() + GRACE
        while not self._all("bye", range(1, self._count)) and time.monotonic() < limit:
            time.sleep(POLL)

    def _take_part(self, order: dict[str, Any]) -> WorkerExit:
        """This rank's part of a job; returns when all ranks have ended theirs."""
        job, self._jobs = self._jobs, self._jobs + 1
        # The launcher's own store keeps what the first job wrote there: every job has its own, on the first rank.
        own = {"MASTER_PORT": str(order["port"]), "TORCHELASTIC_USE_AGENT_STORE": "False"}
        process = Worker(order["overrides"], StopFlag(Path(order["directory"])), own, log=None)
        failed_at = 0.0
        while not (ended := process.ended()):
            if self._store.check([f"mosld/failed{job}"]):
                failed_at = failed_at or time.monotonic()
                waited = time.monotonic() - failed_at
                if waited > 2 * GRACE:
                    process.kill()
                elif waited > GRACE:
                    process.ask_to_end()
        if ended.code not in (0, INTERRUPTED):
            told = json.dumps([ended.code, ended.message])
            self._store.compare_set(f"mosld/failed{job}", "", told)
            if ended.message:  # one that failed because of another says nothing
                self._store.compare_set(f"mosld/cause{job}", "", told)  # the first one stays
        self._store.set(f"mosld/ended{job}-{self._rank}", "")
        while not self._all(f"ended{job}-", range(self._count)):
            time.sleep(POLL)
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
