"""How long OpenMP threads spin for each other, by whether the process has its cores for itself.

A thread that waits for the other threads of an operator spins, in GNU OpenMP (torch's on Linux), for 300,000 rounds
before it sleeps. On cores that nobody else uses that is fastest. On shared cores a thread spins while the one that it
waits for cannot run, and two training runs on two cores nearly stop (docs/explanation/performance.md).

GNU OpenMP cuts the spinning to 100 rounds in a process with more OpenMP threads than cores (GOMP_SPINCOUNT in its
manual). `CoreWatch` adds idle OpenMP threads while the cores are shared. As many threads compute as before, so results
do not depend on the load.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

# What a user sets to choose for themselves.
USER_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
# Where the kernel does not tell whether cores are shared: the most rounds that cost a run alone less than a tenth.
FALLBACK_ROUNDS = 1000
CHECK_SECONDS = 0.5
# Share of the time in which the main thread is ready to run and another process holds its core. Alone it is below .02,
# beside another run .35.
SHARED_ABOVE = 0.1
FREE_BELOW = 0.05
# "running waiting timeslices" of the main thread, in nanoseconds.
SCHEDULER_FILE = Path("/proc/self/schedstat")


def limit_spinning() -> None:
    """Spin less where `CoreWatch` cannot see the load; call it before torch is imported."""
    if sys.platform == "linux" and core_wait_seconds() is None and not _user_decides():
        os.environ["GOMP_SPINCOUNT"] = str(FALLBACK_ROUNDS)


def core_wait_seconds() -> float | None:
    """Seconds in which the main thread was ready to run but had no core; None where the kernel does not tell."""
    try:
        running, waiting, _ = (int(field) for field in SCHEDULER_FILE.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return None
    # A kernel that does not count writes zeros.
    return waiting / 1e9 if running else None


def _user_decides() -> bool:
    return any(name in os.environ for name in USER_VARIABLES)


class CoreWatch(threading.Thread):
    """Makes OpenMP spin briefly while other processes use this one's cores; a daemon thread."""

    def __init__(self, run_parallel: Callable[[], object], threads: int) -> None:
        """Watch for a process that computes with `threads` OpenMP threads.

        Args:
            run_parallel: runs an operator on `threads` threads, in the thread that calls it.
            threads: at least 2.
        """
        super().__init__(name="mosld-core-watch", daemon=True)
        self._run_parallel = run_parallel
        cores = len(os.sched_getaffinity(0))
        # Each holder has `threads` OpenMP threads and is one of them: enough that all together exceed the cores.
        self._holder_count = max(0, (cores - threads) // (threads - 1) + 1)
        self._cores_free = threading.Event()
        self.holders: list[threading.Thread] = []

    def run(self) -> None:
        """Check the load as long as the process lives."""
        waited, checked = core_wait_seconds() or 0.0, time.monotonic()
        while True:
            time.sleep(CHECK_SECONDS)
            waited_now, now = core_wait_seconds() or 0.0, time.monotonic()
            self.update((waited_now - waited) / (now - checked))
            waited, checked = waited_now, now

    def update(self, waiting_share: float) -> None:
        """Add or end the idle OpenMP threads, by the share of the time that the main thread waited for a core."""
        if not self.holders and waiting_share > SHARED_ABOVE:
            self._cores_free = threading.Event()
            self.holders = [
                threading.Thread(target=self._hold, args=(self._cores_free,), daemon=True)
                for _ in range(self._holder_count)
            ]
            for holder in self.holders:
                holder.start()
        elif self.holders and waiting_share < FREE_BELOW:
            self._cores_free.set()
            self.holders = []

    def _hold(self, released: threading.Event) -> None:
        # OpenMP keeps the threads of an operator, asleep, as long as the thread that called it lives.
        self._run_parallel()
        released.wait()


_watch: CoreWatch | None = None


def watch_cores(run_parallel: Callable[[], object], threads: int) -> None:
    """Start this process's `CoreWatch`, once, unless the user decides or there is nothing to spin for.

    Args:
        run_parallel: as for `CoreWatch`.
        threads: that compute in this process.
    """
    global _watch
    if threads < 2 or _user_decides() or core_wait_seconds() is None or not hasattr(os, "sched_getaffinity"):
        return
    # A thread of the parent does not live in a fork.
    if _watch is None or not _watch.is_alive():
        _watch = CoreWatch(run_parallel, threads)
        _watch.start()
