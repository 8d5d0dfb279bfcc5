"""Beside the rows: one process that fails ends all of them within seconds; nothing waits in a collective for ever.

By torchrun, as a user starts it, and by processes of the nursery, which nobody ends from outside.
"""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cases import Case, Outcome, check_case, command, newest_step, status, weights
from tests.helpers.fork_server import ROOT, nursery

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

STEP = "mosld.training.step:Stepper.step"
# A process that waits in a collective for a dead one waits for gloo's 30 minutes; the longest wait of ours is twice 30
# seconds. Between the two, so that a busy machine changes nothing.
SECONDS = 280.0


def cases(full: bool) -> list[Case]:
    """Errors and deaths on either process, in training and in scoring; refusals; a finished run; a full disk."""
    found = [
        Case(
            "torchrun: an error on one process",
            partial(_torchrun, {"call": 3, "do": "error"}, "1", "failed", again=full),
        ),
        Case(
            "torchrun: one process is killed",
            partial(_torchrun, {"call": 3, "do": "SIGKILL"}, "1", "failed", again=full),
        ),
    ]
    if full:
        found += [
            Case("the other process alone fails", partial(_alone, 1)),
            Case("torchrun: the main process is killed", partial(_torchrun, {"call": 3, "do": "SIGKILL"}, "0", None)),
            Case("torchrun: a signal to it", partial(_torchrun, {"call": 3, "do": "SIGTERM"}, "1", "interrupted")),
            Case("torchrun: an error while scoring", partial(_torchrun, SCORING, "1", "failed")),
            Case("torchrun: diverged", partial(_torchrun, NAN, "1", "diverged")),
        ]
    return [
        *found,
        Case("the main process alone fails", partial(_alone, 0)),
        Case("torchrun: a refused command, then a finished one", _refused),
        Case("another number of processes goes on", _other_count),
        Case("a full disk in a checkpoint", _full_disk),
        Case("two commands in one directory", _two_commands),
    ]


SCORING = {"at": "mosld.recipes.context:RunContext.score", "call": 2, "do": "error"}
NAN = {"at": "mosld.training.step:Stepper._forward", "call": 3, "until": 99, "when": "after", "do": "nan"}


def _launch(arguments: list[str], log: Path, faults: dict[str, Any] | None = None) -> tuple[int, float]:
    """The exit code of torchrun with two processes, and the seconds it took."""
    started = time.perf_counter()
    with log.open("a") as out:
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
             str(ROOT / "tests" / "helpers" / "faulty_train.py"), *arguments],
            cwd=ROOT, stdout=out, stderr=out, timeout=100,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "FAULTS": json.dumps(faults or {})},
        )  # fmt: skip
    return done.returncode, time.perf_counter() - started


def _torchrun(fault: dict, rank: str, wanted: str | None, folder: Path, again: bool = True) -> Outcome:
    run = command(folder, "evaluation.base=false")
    code, seconds = _launch(run, folder / "log", {rank: [{"at": STEP, **fault}]})
    assert code != 0
    assert status(folder / "run") == wanted, (folder / "log").read_text()[-3000:]
    assert seconds < SECONDS
    if again:
        assert nursery().train_several(2, run, folder / "log-again") == [0, 0]
    return Outcome(figure=seconds)


def _alone(rank: int, folder: Path) -> None:
    started = time.perf_counter()
    faults = {rank: [{"at": STEP, "call": 3, "do": "error"}]}
    codes = nursery().train_several(2, command(folder), folder / "log", faults)
    assert all(code not in (0, 75, None) for code in codes), codes
    assert status(folder / "run") == "failed"
    assert time.perf_counter() - started < SECONDS


def _refused(folder: Path) -> None:
    run = command(folder)
    assert nursery().train(run, folder / "log") == 0
    code, seconds = _launch([*run, "method.rank=4"], folder / "log-refused")
    assert code == 1
    # Both processes find it, and one says it.
    assert (folder / "log-refused").read_text().count("method.rank: was 8, is 4") == 1
    assert seconds < SECONDS
    assert nursery().train_several(2, run, folder / "log-finished") == [0, 0]
    assert "this run is finished" in (folder / "log-finished-0").read_text()


def _other_count(folder: Path) -> None:
    stop = {0: [{"at": STEP, "call": 3, "do": "SIGTERM"}]}
    assert nursery().train_several(2, command(folder), folder / "log", stop) == [75, 75]
    assert nursery().train(command(folder), folder / "log-again") == 0
    assert "resuming from step-000003" in (folder / "log-again").read_text()


def _full_disk(folder: Path) -> None:
    assert nursery().train(command(folder, f"output_dir={folder / 'one'}"), folder / "log-one") == 0
    for number, place in enumerate(("mosld.training.tensor_files:save_file", "mosld.runs.results:MetricsLog.write")):
        run = command(folder, f"output_dir={folder / f'run{number}'}")
        code = nursery().train(run, folder / f"log{number}", [{"at": place, "call": 4, "until": 99, "do": "full"}])
        said = (folder / f"log{number}").read_text()
        assert code == 2
        assert "the disk is full" in said
        assert "Traceback" not in said
        assert newest_step(folder / f"run{number}") == 2
        assert not list((folder / f"run{number}").rglob(".tmp-*"))
        assert nursery().train(run, folder / f"log{number}") == 0
        assert weights(folder / f"run{number}") == weights(folder / "one")


def _two_commands(folder: Path) -> None:
    child = nursery().start("mosld.train:main", [command(folder, steps=12)], folder / "log")
    while not (folder / "run" / "train.log").exists():
        time.sleep(0.005)
    assert nursery().train(command(folder, steps=12), folder / "log-second") == 2
    assert "another process works on this run" in (folder / "log-second").read_text()
    assert nursery().wait(child) == 0


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
