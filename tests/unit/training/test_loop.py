"""The loop: resume at every step is bit-equal, the best weights are kept, no step without a finite gradient."""

import dataclasses
import hashlib
import json
import math
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file

import mosld
from mosld.adapters.load import trained_parameters
from mosld.common.errors import UserError
from mosld.config.schema import TrainingConfig
from mosld.evaluation.validation import Validation
from mosld.training.loop import BEST_BY, DivergedError
from mosld.training.optim import learning_rate, make_optimizer
from tests.helpers.toy_runs import DOMAINS, loop_of, stepper_of

CONFIG = TrainingConfig(
    epochs=2, batch_size=4, micro_batch_size=2, checkpoint_every=1, validate_every=2, keep_last=100, learning_rate=1e-2
)


class Killed(Exception):
    """Stands for the end of a process."""


def make_loop(folder, method="mosld", config=CONFIG, scores=None, kill_at=None, poison=(), best_by="accuracy"):
    """A loop on a fresh tiny model; `kill_at`: the step before which it dies; `poison`: steps with a NaN loss.

    `scores`: what each validation measures, an accuracy and also a loss.
    """
    torch.manual_seed(0)
    model = mosld.adapt(mosld.load_base("tiny")[0], method, seed=0)
    stepper = stepper_of(model, make_optimizer(model, config), max_norm=config.max_grad_norm)
    take, taken = stepper.step, iter(scores or [0.1, 0.2, 0.3, 0.4, 0.5])

    def step(*arguments):
        number = sum(1 for _ in steps)
        if kill_at is not None and loop_state["step"] == kill_at:
            raise Killed
        steps.append(number)
        if loop_state["step"] in poison:
            with torch.no_grad():
                weight = next(iter(trained_parameters(model).values()))
                kept = weight.clone()
                weight[0, 0] = float("nan")
            result = take(*arguments)
            with torch.no_grad():
                weight.copy_(kept)
        else:
            result = take(*arguments)
        loop_state["step"] += 1
        return result

    def validate():
        score = next(taken)
        return Validation({"arc_e": score}, {"arc_e": score}) if best_by != "last" else Validation({}, {})

    steps: list[int] = []
    loop_state = {"step": 0}
    stepper.step = step
    loop = loop_of(stepper, config, folder / "checkpoints", folder / "metrics.jsonl", validate, best_by)
    resume = loop._resume

    def resumed():
        progress = resume()
        loop_state["step"] = progress.step
        for _ in range(progress.step // config.validate_every):
            next(taken)
        return progress

    loop._resume = resumed
    return loop


def digest(loop) -> str:
    tensors = [p.detach().numpy().tobytes() for p in trained_parameters(loop.stepper.model).values()]
    for state in loop.stepper.engine.optimizer.state_dict()["state"].values():
        tensors += [state[key].numpy().tobytes() for key in sorted(state)]
    return hashlib.sha256(b"".join(tensors)).hexdigest()


@pytest.mark.parametrize("method", ["lora", "mosl", "mosld"])
@pytest.mark.slow
def test_run_killed_at_any_step_resumes_bit_equal(method, tmp_path):
    straight = make_loop(tmp_path, method)
    total = straight.run().step
    assert total == 8
    for kill_at in range(1, total):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        with pytest.raises(Killed):
            make_loop(folder, method, kill_at=kill_at).run()
        torch.rand(7)  # whatever happens between two processes
        again = make_loop(folder, method)
        again.run()
        assert digest(again) == digest(straight), kill_at


def test_eight_bit_state_resumes_bit_equal_and_another_optimiser_is_refused(tmp_path):
    pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    config = dataclasses.replace(CONFIG, optimizer="adamw_8bit")
    # Full: some of its weights are large enough for a state of 8 bits.
    straight = make_loop(tmp_path, "full", config)
    straight.run()
    saved = load_file(tmp_path / "checkpoints" / "step-000005" / "optimizer.safetensors")
    assert {tensor.dtype for name, tensor in saved.items() if name.endswith("state1")} == {torch.uint8, torch.float32}
    for kill_at in (1, 5):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        with pytest.raises(Killed):
            make_loop(folder, "full", config, kill_at=kill_at).run()
        again = make_loop(folder, "full", config)
        again.run()
        ours, theirs = trained_parameters(again.stepper.model), trained_parameters(straight.stepper.model)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(UserError, match="state of another optimiser"):
        make_loop(tmp_path, "full", CONFIG).run()


def metric_steps(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "cross_entropy" in line]


def test_metrics_hold_every_step_once_after_resuming(tmp_path):
    config = dataclasses.replace(CONFIG, checkpoint_every=3, validate_every=4)
    with pytest.raises(Killed):
        make_loop(tmp_path, config=config, kill_at=5).run()
    make_loop(tmp_path, config=config).run()
    assert metric_steps(tmp_path) == list(range(1, 9))


@pytest.mark.parametrize(
    ("best_by", "scores", "best_step"),
    [
        ("accuracy", [0.1, 0.4, 0.4, 0.2], 6),
        ("accuracy", [0.0, 0.0, 0.0, 0.0], 8),
        ("accuracy", [0.1, 0.2, 0.3, 0.2], 6),
        ("loss", [3.0, 2.0, 2.5, 2.1], 4),
        ("loss", [3.0, 2.0, 2.0, 2.1], 6),
        ("loss", [math.nan, 2.0, math.nan, math.inf], 4),
        ("loss", [math.nan, math.nan, math.nan, math.nan], 8),
        ("last", [0.4, 0.3, 0.2, 0.1], 8),
    ],
)
@pytest.mark.slow
def test_weights_of_the_best_validation_are_loaded_at_the_end_and_of_equal_ones_the_later(
    best_by, scores, best_step, tmp_path, capsys
):
    loop = make_loop(tmp_path, scores=scores, best_by=best_by)
    progress = loop.run()
    assert progress.best_step == best_step
    assert f"kept the weights of step {best_step} ({BEST_BY[best_by]})" in capsys.readouterr().err
    (tmp_path / "shorter").mkdir()
    shorter = make_loop(tmp_path / "shorter", kill_at=best_step, scores=scores, best_by=best_by)
    with pytest.raises(Killed) if best_step < 8 else nullcontext():
        shorter.run()
    ours, theirs = trained_parameters(loop.stepper.model), trained_parameters(shorter.stepper.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("patience", "scores", "steps"),
    [
        (1, [0.1, 0.1, 0.9, 0.9], 4),
        (2, [0.2, 0.1, 0.1, 0.9], 6),
        (2, [0.2, 0.1, 0.3, 0.2], 8),
        (3, [0.2, 0.1, 0.1, 0.1], 8),
    ],
)
@pytest.mark.slow
def test_run_stops_after_so_many_validations_without_improvement_also_when_resumed(patience, scores, steps, tmp_path):
    config = dataclasses.replace(CONFIG, patience=patience)
    straight = make_loop(tmp_path, config=config, scores=scores)
    progress = straight.run()
    assert progress.step == steps
    for kill_at in range(1, steps):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        with pytest.raises(Killed):
            make_loop(folder, config=config, scores=scores, kill_at=kill_at).run()
        again = make_loop(folder, config=config, scores=scores)
        # The time differs.
        assert dataclasses.replace(again.run(), seconds=0) == dataclasses.replace(progress, seconds=0)
        assert digest(again) == digest(straight)
    ended = make_loop(tmp_path, config=config, scores=scores)
    assert ended.run().step == steps
    assert metric_steps(tmp_path) == list(range(1, steps + 1))


def test_run_that_stops_early_says_why_and_keeps_the_planned_schedule(tmp_path, capsys):
    config = dataclasses.replace(CONFIG, patience=1)
    make_loop(tmp_path, config=config, scores=[0.2, 0.1]).run()
    assert "stopped at step 4 of 8: the validation accuracy did not improve 1 time in a row" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert rates == [learning_rate(step, 8, config) for step in range(4)]


def test_old_checkpoints_are_deleted_and_the_best_weights_stay(tmp_path):
    make_loop(tmp_path, config=dataclasses.replace(CONFIG, keep_last=2), scores=[0.9, 0.1, 0.1, 0.1]).run()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["best-000002", "step-000007", "step-000008"]


def test_damaged_best_weights_are_replaced_by_later_ones(tmp_path, capsys):
    with pytest.raises(Killed):
        make_loop(tmp_path, kill_at=6).run()
    (weights,) = (tmp_path / "checkpoints").glob("best-000006/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    progress = make_loop(tmp_path).run()
    assert "best-000006 is damaged: the best weights are chosen again" in capsys.readouterr().err
    assert progress.best_step == 8


def test_step_with_nan_loss_changes_no_weight_and_names_its_rows(tmp_path, capsys):
    loop = make_loop(tmp_path, poison={3})
    progress = loop.run()
    assert progress.skipped == 1
    assert all(p.isfinite().all() for p in trained_parameters(loop.stepper.model).values())
    assert "step 4 skipped: loss nan" in (said := capsys.readouterr().err)
    assert all(f"{DOMAINS[i % 2]}:row{i}" in said for i in loop.order.rows(3))


def test_three_nan_steps_in_a_row_end_the_run(tmp_path):
    loop = make_loop(tmp_path, poison={2, 3, 4})
    with pytest.raises(DivergedError, match="3 steps in a row, up to step 5"):
        loop.run()
    newest = loop.checkpoints.newest(print)
    assert newest.name == "step-000004"


def test_loss_does_not_depend_on_the_micro_batch_size(tmp_path):
    results = []
    for size in (1, 2, 4):
        loop = make_loop(tmp_path, "mosl", dataclasses.replace(CONFIG, micro_batch_size=size, max_grad_norm=1e9))
        results.append(loop.stepper.step(loop.examples[:4], size, 0.0, 0))
    for result in results[1:]:
        assert result.cross_entropy == pytest.approx(results[0].cross_entropy, rel=1e-5)


def test_gradients_are_clipped_to_max_grad_norm(tmp_path):
    loop = make_loop(tmp_path, "mosl", dataclasses.replace(CONFIG, max_grad_norm=0.5))
    seen = []
    loop.stepper.engine.optimizer.step = lambda: seen.append(
        torch.cat([p.grad.flatten() for p in loop.stepper.engine.parameters]).norm().item()
    )
    assert loop.stepper.step(loop.examples[:4], 2, 1e-3, 0).grad_norm > 0.5
    assert seen[0] == pytest.approx(0.5, rel=1e-3)
