"""Row 9: a sweep of 12 jobs of which 3 fail, killed once: given again it makes what is missing, and nothing else."""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.cases import Case, Outcome, check_case, command, status, weights
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow

JOBS = 12
FAIL = {2: "error", 5: "SIGKILL", 8: "memory"}  # by seed: a bug, a death, too little memory
KILLED_IN = 6


def cases(full: bool) -> list[Case]:
    """A kill in the middle; signals; and what the jobs leave is what commands of their own leave."""
    found = [Case("12 jobs, 3 fail, killed once", partial(_killed, full))]
    names = ("SIGTERM", "SIGINT", "SIGUSR1") if full else ("SIGTERM",)
    return [*found, *(Case(f"{name} in a sweep", partial(_stopped, name)) for name in names)]


def train_in(folder: str, arguments: list[str]) -> int:
    """The command in a folder of its own, where its outputs come to lie."""
    os.chdir(folder)
    from mosld.train import main

    return main(arguments)


def _arguments(folder: Path, seeds: str) -> list[str]:
    once = command(folder, "training.checkpoint_every=1", steps=2)
    single = [text for text in once if not text.startswith("output_dir=")]
    return ["-m", *single, f"seed={seeds}"]


def _start(folder: Path, arguments: list[str], faults: list[dict], log: str) -> int:
    return nursery().start("tests.reliability.test_sweep:train_in", [str(folder), arguments], folder / log, faults)


def _run(folder: Path, seed: int) -> Path:
    found = list((folder / "outputs" / "mixture" / "tiny").glob(f"mosld-r8-s{seed}-*"))
    return found[0] if found else folder / "none"


def _summary(folder: Path) -> dict:
    (path,) = (folder / "outputs" / "sweeps").glob("*/summary.json")
    return json.loads(path.read_text())


def _faults() -> list[dict]:
    place = "mosld.recipes.train:make_loop"
    return [{"at": place, "call": 1, "only": f"Config(seed={seed},", "do": what} for seed, what in FAIL.items()]


def _killed(full: bool, folder: Path) -> Outcome:
    arguments = _arguments(folder, f"range(0,{JOBS})")
    child = _start(folder, arguments, _faults(), "log")
    while not (_run(folder, KILLED_IN) / "metrics.jsonl").exists():
        assert nursery().wait(child, 0.01) is None, (folder / "log").read_text()[-3000:]
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    assert nursery().wait(child) == -signal.SIGKILL
    before = _written(folder)
    done = [seed for seed in range(KILLED_IN) if seed not in FAIL]
    assert sorted(before) == done

    assert nursery().wait(_start(folder, arguments, _faults(), "log-again"), 300) == 4
    good = [seed for seed in range(JOBS) if seed not in FAIL]
    after, summary = _written(folder), _summary(folder)
    assert sorted(after) == good
    assert {seed: after[seed] for seed in done} == before
    named = {job["job"] - 1: job["error"] for job in summary["jobs"] if job["status"] == "failed"}
    assert sorted(named) == sorted(FAIL)
    assert "planted" in named[2]
    assert "SIGKILL" in named[5]
    assert "out of memory" in named[8]
    assert summary["finished"] == len(good)
    said = (folder / "log-again").read_text()
    assert all(f"job {seed + 1} of {JOBS} finished before" in said for seed in done)
    assert all(f"job {seed + 1} failed: " in said for seed in FAIL)

    if full:
        assert nursery().wait(_start(folder, arguments, [], "log-mended"), 300) == 0
        mended = _written(folder)
        assert {seed: mended[seed] for seed in good} == after
        assert sorted(mended) == list(range(JOBS))
    wanted = range(JOBS) if full else (KILLED_IN,)
    failures = [f"seed {seed}: other bits" for seed in wanted if weights(_run(folder, seed)) != _alone(folder, seed)]
    return Outcome(len(wanted) + 1, failures)


def _written(folder: Path) -> dict[int, int]:
    """When each finished run wrote its results, by seed."""
    runs = {seed: _run(folder, seed) for seed in range(JOBS)}
    return {seed: (run / "results.json").stat().st_mtime_ns for seed, run in runs.items() if status(run) == "finished"}


def _alone(folder: Path, seed: int) -> str:
    """The weights of a command of its own."""
    single = command(folder, f"seed={seed}", "training.checkpoint_every=1", f"output_dir={folder / 'one'}", steps=2)
    assert nursery().train([*single, "training.resume=never"], folder / "log-one") == 0
    return weights(folder / "one")


def _stopped(name: str, folder: Path) -> None:
    arguments = _arguments(folder, "0,1,2")
    child = _start(folder, arguments, [], "log")
    while not (_run(folder, 1) / "metrics.jsonl").exists():
        assert nursery().wait(child, 0.01) is None, (folder / "log").read_text()[-3000:]
        time.sleep(0.005)
    os.kill(child, signal.Signals[name])
    assert nursery().wait(child) == 75
    assert status(_run(folder, 1)) in ("interrupted", "finished")
    assert [job["status"] for job in _summary(folder)["jobs"]][::2] == ["finished", "not started"]
    assert nursery().wait(_start(folder, arguments, [], "log-again")) == 0
    assert _summary(folder)["finished"] == 3
    assert weights(_run(folder, 1)) == _alone(folder, 1)


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
