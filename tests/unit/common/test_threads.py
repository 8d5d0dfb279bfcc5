import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mosld.common import threads
from mosld.common.threads import CoreWatch, core_wait_seconds, limit_spinning, watch_cores

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP and /proc are Linux's")


@pytest.fixture(autouse=True)
def no_user_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nothing is set for OpenMP."""
    for name in threads.USER_VARIABLES:
        # Set first, so that what a test sets is undone too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def scheduler_says(text: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel's file hold `text`."""
    (directory / "schedstat").write_text(text)
    monkeypatch.setattr(threads, "SCHEDULER_FILE", directory / "schedstat")


@pytest.mark.parametrize(
    ("text", "seconds"), [("9000 2500000000 7\n", 2.5), ("9000 0 7\n", 0.0), ("0 0 0\n", None), ("", None)]
)
def test_wait_is_read_from_the_scheduler(text, seconds, tmp_path, monkeypatch):
    scheduler_says(text, tmp_path, monkeypatch)
    assert core_wait_seconds() == seconds


def test_unknown_wait_limits_spinning(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "SCHEDULER_FILE", tmp_path / "missing")
    limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == str(threads.FALLBACK_ROUNDS)


def test_known_wait_leaves_the_environment(tmp_path, monkeypatch):
    scheduler_says("9000 0 7\n", tmp_path, monkeypatch)
    limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "5"), ("OMP_WAIT_POLICY", "active")])
def test_value_of_the_user_stands(name, value, tmp_path, monkeypatch):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(threads, "SCHEDULER_FILE", tmp_path / "missing")
    limit_spinning()
    assert {key: os.environ[key] for key in threads.USER_VARIABLES if key in os.environ} == {name: value}
    scheduler_says("9000 0 7\n", tmp_path, monkeypatch)
    monkeypatch.setattr(threads, "_watch", None)
    watch_cores(lambda: None, threads=2)
    assert threads._watch is None


def test_one_thread_needs_no_watch(monkeypatch):
    monkeypatch.setattr(threads, "_watch", None)
    watch_cores(lambda: None, threads=1)
    assert threads._watch is None


@pytest.mark.parametrize(
    ("cores", "openmp_threads", "holders"), [(2, 2, 1), (64, 64, 1), (16, 8, 2), (16, 2, 15), (2, 3, 0)]
)
def test_openmp_threads_exceed_the_cores_while_shared(cores, openmp_threads, holders, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    callers: list[threading.Thread] = []
    watch = CoreWatch(lambda: callers.append(threading.current_thread()), openmp_threads)
    watch.update(threads.SHARED_ABOVE + 0.01)
    started = watch.holders
    assert len(started) == holders
    assert openmp_threads + holders * (openmp_threads - 1) > cores
    watch.update(threads.FREE_BELOW - 0.01)
    for holder in started:
        holder.join()
    assert set(callers) == set(started)


def test_holders_change_only_beyond_the_bounds(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    watch = CoreWatch(lambda: None, 2)
    between = (threads.SHARED_ABOVE + threads.FREE_BELOW) / 2
    counts = []
    for share in (0.0, between, 0.5, between, 0.5, 0.0, between):
        watch.update(share)
        counts.append(len(watch.holders))
    assert counts == [0, 0, 1, 1, 1, 0, 0]


PROGRAM = """
import json, os, sys, threading
import torch
from mosld.common.threads import CoreWatch
from mosld.recipes.load import _run_on_all_threads

def openmp_threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(2)
torch.manual_seed(0)
left, right = torch.randn(300, 300), torch.randn(300, 300)
alone = (left @ right).sum()
ready = threading.Semaphore(0)

def run_parallel():
    _run_on_all_threads()
    ready.release()

watch = CoreWatch(run_parallel, 2)
counts = [openmp_threads()]
watch.update(1.0)
for _ in watch.holders:
    ready.acquire()
counts.append(openmp_threads())
shared = (left @ right).sum()
holders = watch.holders
watch.update(0.0)
for holder in holders:
    holder.join()
print(json.dumps([counts, len(holders), torch.equal(alone, shared)]))
"""


@pytest.mark.slow
def test_idle_threads_are_openmps_and_leave_results_alone():
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    (before, during), holders, equal = json.loads(done.stdout)
    # Each holder, and the second OpenMP thread of each.
    assert during - before == 2 * holders
    assert equal
