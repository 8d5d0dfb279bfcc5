"""Row 4: a loss or gradient that is not finite changes no weight and no checkpoint; three in a row end the run."""

import re
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.helpers.cases import Case, check_case, command, metrics, newest_step, status
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow

# Called once by the trial of the longest micro-batch, then once for each micro-batch.
FORWARD = "mosld.training.step:Stepper._forward"


def cases(full: bool) -> list[Case]:
    """Each kind of fault at a step, in a row, on one process of two; and an update that overflows."""
    kinds = ("nan", "inf", "-inf", "nan gradient")
    steps = (1, 3, 6) if full else (3,)
    found = [Case(f"{kind} at step {step}", partial(_skipped, kind, step)) for kind in kinds for step in steps]
    found += [Case(f"{kind} three steps in a row", partial(_diverged, kind)) for kind in (kinds if full else kinds[:1])]
    found += [
        Case("two in a row, then a good one", _two),
        Case("nan on one process of two", _one_of_two),
        Case("a weight that overflows in an update", _overflow),
    ]
    return found


def _finite(run: Path) -> None:
    files = [*run.rglob("*.safetensors")]
    assert files
    for path in files:
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path


def _skipped(kind: str, step: int, folder: Path) -> None:
    assert nursery().train(command(folder, "training.micro_batch_size=4"), folder / "log", [
        {"at": FORWARD, "call": 1 + step, "when": "after", "do": kind}
    ]) == 0  # fmt: skip
    _finite(folder / "run")
    said = (folder / "log").read_text()
    assert len(re.findall(rf"step {step} skipped: .* its rows: (?:(?:obqa|arc_e):\S+,? ?){{4}}", said)) == 1
    assert [line["skipped"] for line in metrics(folder / "run") if "skipped" in line][-1] == 1


def _diverged(kind: str, folder: Path) -> None:
    faults = [{"at": FORWARD, "call": 5, "until": 99, "when": "after", "do": kind}]
    run = command(folder, "training.micro_batch_size=4")
    assert nursery().train(run, folder / "log", faults) == 3
    assert status(folder / "run") == "diverged"
    assert "3 steps in a row, up to step 6" in (folder / "log").read_text()
    _finite(folder / "run")
    # given again it fails in the same way, and does not go on for ever
    faults[0]["call"] = 2
    assert nursery().train(run, folder / "log-again", faults) == 3
    assert "resuming from" in (folder / "log-again").read_text()
    assert nursery().train(run, folder / "log-mended") == 0  # the fault is gone


def _two(folder: Path) -> None:
    faults = [{"at": FORWARD, "call": 3, "until": 4, "when": "after", "do": "nan"}]
    assert nursery().train(command(folder, "training.micro_batch_size=4"), folder / "log", faults) == 0
    assert "step 4 skipped" not in (folder / "log").read_text()
    _finite(folder / "run")


def _one_of_two(folder: Path) -> None:
    fault = {1: [{"at": FORWARD, "call": 4, "when": "after", "do": "nan"}]}
    assert nursery().train_several(2, command(folder), folder / "log", fault) == [0, 0]
    assert (folder / "log-0").read_text().count(" skipped: ") == 1
    _finite(folder / "run")


def _overflow(folder: Path) -> None:
    fault = {"at": "torch.optim.adamw:AdamW.step", "call": 4, "when": "after", "do": "overflow"}
    assert nursery().train(command(folder), folder / "log", [fault]) == 3
    assert status(folder / "run") == "diverged"
    assert "a weight was not finite at step 4" in (folder / "log").read_text()
    _finite(folder / "run")
    assert newest_step(folder / "run") == 2


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
