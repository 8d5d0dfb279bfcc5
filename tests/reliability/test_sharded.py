"""Beside the rows: FSDP2 over gloo. Two processes with half of the base each train and score as one with all of it."""

import json
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.helpers.cases import Case, Outcome, check_case, command, losses, weights
from tests.helpers.fork_server import nursery

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
STEP = "mosld.training.step:Stepper.step"
CLOSE = 1e-6
# Dropout is keyed by micro-batch, so it may stay on. Two gradients have one sum; of three, a sum in another order
# differs in the last bit, which a bfloat16 base makes larger step by step.
EVEN = ["model.dtype=bfloat16", "training.warmup=0"]
# Three micro-batches on two processes: one of them runs a fourth in step with the other.
UNEVEN = ["model.dtype=float32", "training.batch_size=6", "training.warmup=0"]
MIXED = [
    "source=bundled", "source.root=null", "data=mixture_gsm8k", "data.tasks=[obqa,gsm8k]", "data.limit=8",
    "evaluation.limit=5", "evaluation.validation_limit=3", "evaluation.max_new_tokens=6", "evaluation.base=true",
]  # fmt: skip


def cases(full: bool) -> list[Case]:
    """Generation and scoring, a domain's election, every method; a signal and a resume; eval in parts and whole."""
    found = [
        Case("mosld, with generation", partial(_as_one, "mosld", [*EVEN, *MIXED])),
        Case("stopped and resumed, bit-equal", _resumed),
    ]
    if full:
        vote, again = ["method.inference=vote"], ["training.gradient_checkpointing=true"]
        kept = {"FSDP_RESHARD_AFTER_FORWARD": "false"}
        found += [Case(method, partial(_as_one, method, EVEN)) for method in ("lora", "mixlora", "prefix", "sira")]
        found += [
            Case("mosld, three micro-batches", partial(_as_one, "mosld", UNEVEN)),
            Case("moa, by election", partial(_as_one, "moa", [*EVEN, *vote])),
            Case("mosld, gradient checkpointing", partial(_as_one, "mosld", [*EVEN, *again])),
            Case("offloaded", partial(_as_one, "mosld", EVEN, FSDP_OFFLOAD_PARAMS="true")),
            Case("layers kept whole until backward", partial(_as_one, "mosld", EVEN, **kept)),
        ]
    return found


def _as_one(method: str, more: list[str], folder: Path, **environment: str) -> Outcome:
    one, two = (command(folder, *more, f"output_dir={folder / name}", method=method) for name in ("one", "two"))
    assert nursery().train(one, folder / "log") == 0
    codes = nursery().train_several(2, two, folder / "log", **FSDP, **environment)
    assert codes == [0, 0], (folder / "log-0").read_text()[-3000:]
    results = [json.loads((folder / name / "results.json").read_text()) for name in ("one", "two")]
    assert [found["processes"]["engine"] for found in results] == ["single", "fsdp"]
    assert results[0]["scores"] == results[1]["scores"]
    assert results[0].get("base_scores") == results[1].get("base_scores")
    assert results[0]["parameters"] == results[1]["parameters"]
    assert results[1]["validation_loss"] == pytest.approx(results[0]["validation_loss"], rel=CLOSE)
    assert (folder / "log-1").read_text() == "", "the second process printed something"
    _eval_alone_and_in_parts(folder, results[1]["scores"])
    worst = max(abs(a - b) / abs(a) for a, b in zip(losses(folder / "one"), losses(folder / "two"), strict=True))
    files = [load_file(folder / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    assert files[0].keys() == files[1].keys()
    return Outcome(1, [] if worst <= CLOSE else [f"losses differ by {worst:.2g}"], worst)


def _eval_alone_and_in_parts(folder: Path, wanted: dict) -> None:
    """The adapter of the shared run loads on one process, and on a shared base."""
    place = folder / "two"
    assert nursery().wait(nursery().start("mosld.eval:main", [[f"run={place}"]], folder / "log-eval")) == 0
    (target,) = (place / "eval").iterdir()
    assert json.loads((target / "results.json").read_text())["scores"] == wanted
    children = nursery().start_several(2, "mosld.eval:main", [[f"run={place}"]], folder / "log-both", **FSDP)
    assert [nursery().wait(child) for child in children] == [0, 0]
    assert json.loads((target / "results.json").read_text())["scores"] == wanted


def _resumed(folder: Path) -> None:
    straight, run = (command(folder, *UNEVEN, f"output_dir={folder / name}") for name in ("straight", "run"))
    assert nursery().train_several(2, straight, folder / "log", **FSDP) == [0, 0]
    stop = {1: [{"at": STEP, "call": 3, "do": "SIGTERM"}]}
    assert nursery().train_several(2, run, folder / "log-stopped", stop, **FSDP) == [75, 75]
    assert nursery().train_several(2, run, folder / "log-again", **FSDP) == [0, 0]
    assert "resuming from step-000003" in (folder / "log-again-0").read_text()
    assert weights(folder / "run") == weights(folder / "straight")


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
