"""Beside the rows: method=full in parts. Weights, gradients and AdamW's moments shared by FSDP2 over gloo, as one."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.cases import Case, Outcome, check_case, command, losses
from tests.helpers.fork_server import nursery
from tests.reliability.test_sharded import CLOSE, EVEN, FSDP, MIXED, STEP, UNEVEN

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

WHOLE = "model/model.safetensors"
NAN = {"at": "mosld.training.step:Stepper._forward", "call": 4, "when": "after", "do": "nan"}


def cases(full: bool) -> list[Case]:
    """Losses, scores and the saved model of one process; a kill and a resume; what is not finite; every layout."""
    found = [
        Case("full, three micro-batches, with generation", partial(_as_one, [*UNEVEN, *MIXED])),
        Case("full killed and resumed, bit-equal", partial(_killed, FSDP)),
        Case("full lies in parts, and a step that is not finite is left out", _parts),
    ]
    if full:
        again, untied = ["training.gradient_checkpointing=true"], ["model.shape.tie_word_embeddings=false"]
        offload, kept = {"FSDP_OFFLOAD_PARAMS": "true"}, {"FSDP_RESHARD_AFTER_FORWARD": "false"}
        found += [
            Case("full, a bfloat16 base", partial(_as_one, EVEN)),
            Case("full, untied embeddings", partial(_as_one, [*EVEN, *untied])),
            Case("full, gradient checkpointing", partial(_as_one, [*EVEN, *again])),
            Case("full, offloaded", partial(_as_one, UNEVEN, **offload)),
            Case("full, offloaded, on one process", partial(_as_one, UNEVEN, count=1, **offload)),
            Case("full, layers kept whole until backward", partial(_as_one, EVEN, **kept)),
            Case("full, offloaded, killed and resumed", partial(_killed, {**FSDP, **offload})),
            Case("full stopped in parts goes on on one process", _other_engine),
            Case("full by ddp", partial(_as_one, UNEVEN, ACCELERATE_USE_FSDP="false")),
            Case("full by ddp, killed and resumed", partial(_killed, {})),
        ]
    return found


def _run(folder: Path, name: str, *more: str) -> list[str]:
    return command(folder, *more, f"output_dir={folder / name}", method="full")


def _as_one(more: list[str], folder: Path, count: int = 2, **environment: str) -> Outcome:
    one, two = (_run(folder, name, *more) for name in ("one", "two"))
    assert nursery().train(one, folder / "log") == 0
    codes = nursery().train_several(count, two, folder / "log", **{**FSDP, **environment})
    assert codes == [0] * count, (folder / "log-0").read_text()[-3000:]
    assert all(not (folder / f"log-{rank}").read_text() for rank in range(1, count)), (
        "another process printed something"
    )
    results = [json.loads((folder / name / "results.json").read_text()) for name in ("one", "two")]
    for key in ("scores", "base_scores", "parameters", "dtype"):
        assert results[0].get(key) == results[1].get(key), key
    _files_of_one(folder)
    _loads_plainly(folder / "two", results[1]["scores"])
    worst = max(abs(a - b) / abs(a) for a, b in zip(losses(folder / "one"), losses(folder / "two"), strict=True))
    return Outcome(1, [] if worst <= CLOSE else [f"losses differ by {worst:.2g}"], worst)


def _files_of_one(folder: Path) -> None:
    """The saved model has the files, names, types and shapes of one process's, and nearly its numbers."""
    places = [folder / name / "model" for name in ("one", "two")]
    assert {path.name for path in places[0].iterdir()} == {path.name for path in places[1].iterdir()}
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (places[0] / name).read_bytes() == (places[1] / name).read_bytes(), name
    ours, theirs = (load_file(folder / name / WHOLE) for name in ("one", "two"))
    assert {n: (t.dtype, t.shape) for n, t in ours.items()} == {n: (t.dtype, t.shape) for n, t in theirs.items()}
    for name, tensor in ours.items():
        # AdamW's first steps have the size of the rate whatever the gradient's: a sign may turn where it is nearly 0.
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=1e-3 if tensor.dtype == torch.float32 else 8e-3)


def _loads_plainly(place: Path, wanted: dict) -> None:
    """On one process and in parts it scores as the run said."""
    assert nursery().wait(nursery().start("mosld.eval:main", [[f"run={place}"]], place.parent / "log-eval")) == 0
    (target,) = (place / "eval").iterdir()
    assert json.loads((target / "results.json").read_text())["scores"] == wanted
    children = nursery().start_several(2, "mosld.eval:main", [[f"run={place}"]], place.parent / "log-both", **FSDP)
    assert [nursery().wait(child) for child in children] == [0, 0]
    assert json.loads((target / "results.json").read_text())["scores"] == wanted


def _killed(environment: dict[str, str], folder: Path) -> None:
    killed_and_resumed(environment, *(_run(folder, name, *UNEVEN) for name in ("straight", "run")), WHOLE, folder)


def killed_and_resumed(
    environment: dict[str, str], straight: list[str], run: list[str], weights: str, folder: Path
) -> None:
    """One of two processes is killed in step 4; the same command again ends in the files of an unbroken run."""
    assert nursery().train_several(2, straight, folder / "log", **environment) == [0, 0]
    kill = {1: [{"at": STEP, "call": 4, "do": "SIGKILL"}]}
    codes = nursery().train_several(2, run, folder / "log-killed", kill, **environment)
    assert codes[1] == -9
    assert codes[0] not in (0, 75, None)
    assert nursery().train_several(2, run, folder / "log-again", **environment) == [0, 0]
    assert "resuming from step-000002" in (folder / "log-again-0").read_text()
    for file in (weights, *(f"checkpoints/step-000006/{name}.safetensors" for name in ("weights", "optimizer"))):
        assert (folder / "run" / file).read_bytes() == (folder / "straight" / file).read_bytes(), file


def _other_engine(folder: Path) -> Outcome:
    straight, run = (_run(folder, name, *UNEVEN) for name in ("straight", "run"))
    assert nursery().train(straight, folder / "log") == 0
    stop = {1: [{"at": STEP, "call": 3, "do": "SIGTERM"}]}
    assert nursery().train_several(2, run, folder / "log-stopped", stop, **FSDP) == [75, 75]
    assert nursery().train(run, folder / "log-again") == 0
    assert "resuming from step-000003" in (folder / "log-again").read_text()
    worst = max(abs(a - b) / abs(a) for a, b in zip(losses(folder / "straight"), losses(folder / "run"), strict=True))
    return Outcome(1, [] if worst <= CLOSE else [f"losses differ by {worst:.2g}"], worst)


def _parts(folder: Path) -> None:
    children = nursery().start_several(2, "tests.reliability.test_full:prove", [], folder / "log", **FSDP)
    assert [nursery().wait(child) for child in children] == [0, 0], (folder / "log-0").read_text()[-3000:]
    run = _run(folder, "run", *UNEVEN)
    codes = nursery().train_several(2, run, folder / "log-nan", {1: [NAN]}, **FSDP)
    assert codes == [0, 0], (folder / "log-nan-0").read_text()[-3000:]
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["skipped_steps"] == 1
    assert results["processes"]["engine"] == "fsdp"
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "run" / WHOLE).values())


def prove() -> int:
    """In each of two processes: half of every weight and of both moments; tied weights are one; the steps of one."""
    from torch.distributed.tensor import DTensor

    from mosld.adapters.adapt import adapt_with
    from mosld.config.groups import method_config, model_config
    from mosld.config.schema import TrainingConfig
    from mosld.distributed.processes import processes
    from mosld.models.load import load_base, load_placed
    from mosld.training.engine import ShardedEngine
    from mosld.training.optim import make_optimizer, ready_to_train
    from mosld.training.step import Stepper
    from tests.helpers.toy_runs import small_examples

    group, config, rows = processes(), TrainingConfig(learning_rate=1e-2), small_examples()
    method, allocation = method_config("full", None, {})
    shared = ready_to_train(adapt_with(load_placed(model_config("tiny", {}), group)[0], method, allocation, 0), False)
    alone = ready_to_train(adapt_with(load_base("tiny")[0], method, allocation, 0), False)
    steppers = [
        Stepper(model, make_optimizer(model, config), processes=who, pad_token_id=259, max_norm=0.5)
        for model, who in ((shared, group), (alone, type(group)(0, 1, group.device)))
    ]
    assert isinstance(steppers[0].engine, ShardedEngine)
    assert not isinstance(steppers[1].engine, ShardedEngine)
    for number in range(3):
        ours, theirs = (stepper.step(rows[:6], 2, 1e-2, number) for stepper in steppers)
        assert abs(ours.grad_norm - theirs.grad_norm) < 1e-5 * theirs.grad_norm
        assert abs(ours.cross_entropy - theirs.cross_entropy) < 1e-6 * theirs.cross_entropy
    assert shared.lm_head.weight is shared.model.embed_tokens.weight
    state = steppers[0].engine.optimizer.state
    for parameter in shared.parameters():
        for tensor in (parameter, state[parameter]["exp_avg"], state[parameter]["exp_avg_sq"]):
            assert isinstance(tensor, DTensor)
            assert tensor.to_local().shape[0] == tensor.shape[0] // 2
    for (name, ours), (_, theirs) in zip(*(stepper.engine.weights() for stepper in steppers), strict=True):
        assert (ours is None) == (not group.main), name
        assert ours is None or torch.allclose(ours, theirs, atol=1e-5), name
    return 0


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
