"""Beside the rows: DeepSpeed's ZeRO-2 and ZeRO-3 over gloo. Two processes train, save and resume as one."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.cases import Case, Outcome, check_case, command, losses
from tests.helpers.fork_server import nursery
from tests.reliability.test_full import killed_and_resumed
from tests.reliability.test_sharded import CLOSE, EVEN, MIXED, UNEVEN

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

ZERO2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
ZERO3 = {**ZERO2, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
NAN = {"at": "mosld.training.step:Stepper._forward", "call": 4, "when": "after", "do": "nan"}
FILES = {"mosld": "adapter/adapter_model.safetensors", "full": "model/model.safetensors"}
SMALL = ["evaluation.limit=4", "evaluation.validation_limit=2"]
# Both sides compute the same micro-batches with the same kernels and add up three gradients in another order: two
# roundings of u = 2^-24 of the sum of absolute values, which cancellation makes at most 25 times the sum.
GRADIENT_BOUND = 3e-6
# From weights that differ in the last bit a forward of four layers, about forty operations deep, differs by forty
# roundings of the logits.
LOSS_BOUND = 40 * 2**-24


def cases(full: bool) -> list[Case]:
    """Losses, scores and files of one process; a kill and a resume; what is not finite; adapters and whole models."""
    found = [
        Case("ZeRO-3, full, with generation", partial(_as_one, ZERO3, "full", [*UNEVEN, *MIXED])),
        Case("ZeRO-2, mosld, killed and resumed, bit-equal", partial(_killed, ZERO2, "mosld")),
        Case("what is shared lies in parts, and a step that is not finite is left out", _parts),
    ]
    if full:
        again = ["training.gradient_checkpointing=true"]
        others = ("lora", "mixlora", "prefix", "sira", "moa")
        found += [Case(f"ZeRO-3, {method}", partial(_as_one, ZERO3, method, [*EVEN, *SMALL])) for method in others]
        # ZeRO-2 has the norm of an adapter's gradient from its parts: the last bit may differ, as of three gradients.
        found += [Case(f"ZeRO-2, {method}", partial(_as_one, ZERO2, method, [*UNEVEN, *SMALL])) for method in others]
        found += [
            Case("ZeRO-2, mosld", partial(_as_one, ZERO2, "mosld", [*UNEVEN, *SMALL])),
            Case("ZeRO-3, mosld, with generation", partial(_as_one, ZERO3, "mosld", [*UNEVEN, *MIXED])),
            Case("ZeRO-3, full, killed and resumed, bit-equal", partial(_killed, ZERO3, "full")),
            Case("ZeRO-2, full", partial(_as_one, ZERO2, "full", [*UNEVEN, *SMALL])),
            Case("ZeRO-2, full, a bfloat16 base", partial(_as_one, ZERO2, "full", [*EVEN, *SMALL])),
            Case("ZeRO-3, full, a bfloat16 base", partial(_as_one, ZERO3, "full", [*EVEN, *SMALL])),
            Case("ZeRO-3, mosld, gradient checkpointing", partial(_as_one, ZERO3, "mosld", [*EVEN, *SMALL, *again])),
            Case("ZeRO-3, full, gradient checkpointing", partial(_as_one, ZERO3, "full", [*EVEN, *SMALL, *again])),
            Case("ZeRO-3, mosld, killed and resumed, bit-equal", partial(_killed, ZERO3, "mosld")),
            Case("ZeRO-2, full, killed and resumed, bit-equal", partial(_killed, ZERO2, "full")),
        ]
    return found


def _run(folder: Path, name: str, method: str, *more: str) -> list[str]:
    return command(folder, *more, f"output_dir={folder / name}", method=method)


def _as_one(environment: dict[str, str], method: str, more: list[str], folder: Path) -> Outcome:
    one, two = (_run(folder, name, method, *more) for name in ("one", "two"))
    assert nursery().train(one, folder / "log") == 0
    codes = nursery().train_several(2, two, folder / "log", **environment)
    assert codes == [0, 0], (folder / "log-0").read_text()[-3000:]
    assert (folder / "log-1").read_text() == "", "the second process printed something"
    results = [json.loads((folder / name / "results.json").read_text()) for name in ("one", "two")]
    assert results[1]["processes"]["engine"] == f"zero{environment['ACCELERATE_DEEPSPEED_ZERO_STAGE']}"
    for key in ("scores", "base_scores", "parameters", "dtype"):
        assert results[0].get(key) == results[1].get(key), key
    _same_file(folder, FILES.get(method, FILES["mosld"]))
    _scores_again(folder / "two", results[1]["scores"], environment)
    worst = max(abs(a - b) / abs(a) for a, b in zip(losses(folder / "one"), losses(folder / "two"), strict=True))
    return Outcome(1, [] if worst <= CLOSE else [f"losses differ by {worst:.2g}"], worst)


def _same_file(folder: Path, file: str) -> None:
    """The saved weights have the names, types and shapes of one process's."""
    ours, theirs = (load_file(folder / name / file) for name in ("one", "two"))
    assert {n: (t.dtype, t.shape) for n, t in ours.items()} == {n: (t.dtype, t.shape) for n, t in theirs.items()}


def _scores_again(place: Path, wanted: dict, environment: dict[str, str]) -> None:
    """What was saved scores as the run said, on one process and under DeepSpeed."""
    log = place.parent / "log-eval"
    assert nursery().wait(nursery().start("mosld.eval:main", [[f"run={place}"]], log)) == 0, log.read_text()[-3000:]
    (target,) = (place / "eval").iterdir()
    assert json.loads((target / "results.json").read_text())["scores"] == wanted
    children = nursery().start_several(2, "mosld.eval:main", [[f"run={place}"]], log, **environment)
    assert [nursery().wait(child) for child in children] == [0, 0]
    assert json.loads((target / "results.json").read_text())["scores"] == wanted


def _killed(environment: dict[str, str], method: str, folder: Path) -> None:
    straight, run = (_run(folder, name, method, *UNEVEN, *SMALL) for name in ("straight", "run"))
    killed_and_resumed(environment, straight, run, FILES[method], folder)
    alone = _run(folder, "run", method, *UNEVEN, *SMALL, "training.resume=never")
    assert nursery().train(alone, folder / "log-alone") == 0


def _parts(folder: Path) -> None:
    for environment, proof in ((ZERO2, "prove_stage_2"), (ZERO3, "prove_stage_3")):
        children = nursery().start_several(2, f"tests.reliability.test_zero:{proof}", [], folder / proof, **environment)
        codes = [nursery().wait(child) for child in children]
        assert codes == [0, 0], (folder / f"{proof}-0").read_text()[-3000:]
    run = _run(folder, "run", "mosld", *UNEVEN, *SMALL)
    codes = nursery().train_several(2, run, folder / "log-nan", {1: [NAN]}, **ZERO2)
    assert codes == [0, 0], (folder / "log-nan-0").read_text()[-3000:]
    assert json.loads((folder / "run" / "results.json").read_text())["skipped_steps"] == 1
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "run" / FILES["mosld"]).values())


def prove_stage_2() -> int:
    """In each of two processes: half of both moments of a mixture; its steps are those of one process."""
    return _prove("mosld", {"dropout": 0.0})


def prove_stage_3() -> int:
    """In each of two processes: half of every weight that trains and of both moments; steps are those of one."""
    return _prove("full", {})


def _prove(method: str, options: dict) -> int:
    from mosld.adapters.adapt import adapt_with
    from mosld.config.groups import method_config, model_config
    from mosld.config.schema import TrainingConfig
    from mosld.distributed.processes import processes
    from mosld.models.load import load_base, load_placed
    from mosld.training.optim import make_optimizer, ready_to_train
    from mosld.training.step import Stepper
    from mosld.training.zero_engine import ZeroEngine
    from tests.helpers.toy_runs import small_examples

    group, config, rows = processes(), TrainingConfig(learning_rate=1e-2), small_examples()
    own, allocation = method_config(method, None, options)
    placed = load_placed(model_config("tiny", {}), group)[0]
    shared, alone = (ready_to_train(adapt_with(m, own, allocation, 0), False) for m in (placed, load_base("tiny")[0]))
    options = {"pad_token_id": 259, "max_norm": 0.5}
    ours = Stepper(shared, _smooth(make_optimizer(shared, config)), processes=group, **options)
    theirs = Stepper(
        alone, _smooth(make_optimizer(alone, config)), processes=type(group)(0, 1, group.device), **options
    )
    assert isinstance(ours.engine, ZeroEngine)
    for number in range(3):
        ours.try_longest(rows, 2)  # leaves no gradient behind
        mine, wanted = (stepper.step(rows[:6], 2, 1e-2, number) for stepper in (ours, theirs))
        assert abs(mine.grad_norm - wanted.grad_norm) < 1e-5 * wanted.grad_norm
        assert abs(mine.cross_entropy - wanted.cross_entropy) < LOSS_BOUND * wanted.cross_entropy
        if not number:
            _same_step(ours.engine, theirs.engine, group.main)
    total = sum(weight.numel() for weight in theirs.engine.parameters)
    for moments in ours.engine._zero_optimizer.optimizer.state.values():
        assert moments["exp_avg"].numel() <= total // 2 + 64
    if method == "full":
        assert all(not own.numel() and own.ds_tensor.numel() <= own.ds_numel // 2 for own in _large(shared))
    return 0


def _smooth(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """AdamW with an epsilon far above its gradients, so that a step is a Lipschitz function of the gradient.

    With the usual 1e-8 the first step is the sign of the gradient: where that is of rounding size, two correct sums of
    the same gradients move a weight by the learning rate in opposite directions.
    """
    for group in optimizer.param_groups:
        group["eps"] = 1.0
    return optimizer


def _same_step(ours: Any, theirs: Any, main: bool) -> None:
    """After one step from equal weights: the same moments, which are gradients, and the same weights."""
    states = zip(ours.optimizer_state(), theirs.optimizer_state(), strict=True)
    for (name, found), (_, value) in states:
        assert (found is None) == (not main), name
        assert found is None or (found - value).abs().max() <= GRADIENT_BOUND * value.abs().max(), name
    for (name, found), (_, value) in zip(ours.weights(), theirs.weights(), strict=True):
        assert (found is None) == (not main), name
        # The clipped gradient's norm is at most .5, so no entry is larger; the update is at most rate x gradient.
        bound = 1e-2 * GRADIENT_BOUND * 0.5 + torch.finfo(torch.float32).eps * value.abs().max()
        assert found is None or (found - value).abs().max() <= bound, name


def _large(model: torch.nn.Module) -> list:
    """The weights that are worth sharing: norms stay whole."""
    return [weight for weight in model.parameters() if weight.ds_tensor.ndim and weight.ds_numel > 1000]


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
