"""Row 10: out of memory is found before step 1, and the message names batch, length and knobs; auto finds a size."""

import json
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.cases import Case, check_case, command, losses, status
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow

TRIAL = "mosld.training.step:Stepper.try_longest"
KNOBS = ("training.micro_batch_size", "training.gradient_checkpointing=true", "model.dtype=bfloat16")


def cases(full: bool) -> list[Case]:
    """A size that does not fit, one that auto finds, the same one after a resume, and memory that runs out later."""
    return [
        Case("a size that does not fit", _refused),
        Case("auto halves it until it fits", partial(_auto, 1)),
        Case("auto, one process of two has less memory", partial(_auto, 2)),
        Case("auto, nothing fits", _nothing),
        Case("memory runs out while training", _later),
        Case("the system refuses memory", _scarce),
        Case("check=true finds it", _check),
    ]


def _fault(fails: int) -> dict:
    return {"at": TRIAL, "call": 1, "until": fails, "do": "memory"}


def _named(text: str) -> None:
    assert [knob for knob in KNOBS if knob not in text] == []
    assert "Traceback" not in text


def _refused(folder: Path) -> None:
    assert nursery().train(command(folder), folder / "log", [_fault(1)]) == 2
    said = (folder / "log").read_text()
    _named(said)
    assert "a micro-batch of 2 rows of up to" in said
    assert status(folder / "run") == "failed"
    assert losses(folder / "run") == [] if (folder / "run" / "metrics.jsonl").exists() else True


def _auto(count: int, folder: Path) -> None:
    run = command(folder, "training.micro_batch_size=auto", "training.batch_size=8")
    stop = {"at": "mosld.training.step:Stepper.step", "call": 3, "do": "SIGTERM"}
    if count == 1:
        assert nursery().train(run, folder / "log", [_fault(2), stop]) == 75
        assert nursery().train(run, folder / "log-again") == 0
    else:
        assert nursery().train_several(2, run, folder / "log", {0: [stop], 1: [_fault(1)]}) == [75, 75]
        assert nursery().train_several(2, run, folder / "log-again") == [0, 0]
    (newest,) = (folder / "run" / "checkpoints").glob("step-000006")
    assert json.loads((newest / "progress.json").read_text())["micro_batch_size"] == 2
    for name in ("log", "log-again"):
        text = "".join(path.read_text() for path in folder.glob(f"{name}*") if path.name in (name, f"{name}-0"))
        assert "micro-batches of up to 2 rows fit in memory" in text


def _nothing(folder: Path) -> None:
    run = command(folder, "training.micro_batch_size=auto")
    assert nursery().train(run, folder / "log", [_fault(99)]) == 2
    said = (folder / "log").read_text()
    _named(said)
    assert "a micro-batch of 1 rows" in said


def _later(folder: Path) -> None:
    fault = {"at": "torch.optim.adamw:AdamW.step", "call": 1, "do": "memory"}  # its state comes with the first step
    assert nursery().train(command(folder), folder / "log", [fault]) == 2
    _named((folder / "log").read_text())


def _scarce(folder: Path) -> None:
    """No error is planted: the process may take 32 MiB more, and the attention of a micro-batch alone takes 200."""
    scarce = {"at": "mosld.training.loop:Loop._resume", "call": 1, "when": "after", "do": "scarce memory"}
    shape = ("model.shape.hidden_size=256", "model.shape.num_attention_heads=64")
    sizes = ("training.batch_size=24", "training.micro_batch_size=24", "evaluation.base=false")
    run = command(folder, *shape, *sizes)
    assert nursery().train(run, folder / "log", [scarce]) == 2
    said = (folder / "log").read_text()
    _named(said)
    assert "a micro-batch of 24 rows of up to" in said
    assert losses(folder / "run") == [] if (folder / "run" / "metrics.jsonl").exists() else True


def _check(folder: Path) -> None:
    assert nursery().train(command(folder, "check=true"), folder / "log", [_fault(1)]) == 2
    _named((folder / "log").read_text())
    assert not (folder / "run").exists()


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
