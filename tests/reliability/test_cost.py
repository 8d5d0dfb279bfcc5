"""Row 14: what saving costs, as a share of the time spent training, at default settings."""

import json
import time
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.cases import Case, Outcome, check_case, command, metrics
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow

SHARE = 0.01


def cases(full: bool) -> list[Case]:
    """The default model with the default method and recipe; in the short form, that the seconds are in the log."""
    if not full:
        return [Case("seconds and bytes are logged", _logged)]
    return [Case("the default model, method and recipe", partial(_default, 8))]


def _logged(folder: Path) -> None:
    assert nursery().train(command(folder), folder / "log") == 0
    saves = [line for line in metrics(folder / "run") if "checkpoint_seconds" in line]
    assert [line["step"] for line in saves] == [2, 4, 6]
    assert all(line["checkpoint_seconds"] > 0 and line["checkpoint_bytes"] > 10_000 for line in saves)


def _default(steps: int, folder: Path) -> Outcome:
    child = nursery().start("tests.reliability.test_cost:measure", [str(folder), steps], folder / "log")
    assert nursery().wait(child, 1800) == 0, (folder / "log").read_text()
    share = json.loads((folder / "cost.json").read_text())["share"]
    return Outcome(1, [] if share < SHARE else [f"{100 * share:.2f} % of the time"], share)


def measure(place: str, steps: int) -> int:
    """In a child: seconds of a step and of all that guards a default run of 200 steps.

    That is: the checkpoints, the best weights, and the look at whether weights are finite. The trial before step 1 is
    measured beside it: once a run it takes as long as the longest micro-batch does.
    """
    from mosld.config.compose import load_config
    from mosld.data.dataset import load_dataset
    from mosld.recipes.context import RunContext, prepare
    from mosld.recipes.load import load_base_model
    from mosld.runs.console import Console
    from mosld.training.checkpoint import Checkpoints, Progress, save_state, save_weights

    config = load_config(["logger=files"])
    training = config.training
    model, tokenizer = load_base_model(config.model)
    context = RunContext(config, load_dataset(config.data, config.source), tokenizer, Console())
    stepper, rows = prepare(context, model)
    checkpoints = Checkpoints(Path(place) / "checkpoints", training.keep_last)
    seconds: dict[str, list[float]] = {"trial": [], "step": [], "save": [], "best": [], "finite": []}

    def timed(name: str, act) -> None:
        started = time.perf_counter()
        act()
        seconds[name].append(time.perf_counter() - started)

    timed("trial", lambda: stepper.try_longest(rows, training.micro_batch_size))
    for number in range(steps):
        batch = rows[number :: len(rows) // training.batch_size][: training.batch_size]
        size = training.micro_batch_size if isinstance(training.micro_batch_size, int) else 4
        timed("step", lambda batch=batch, size=size, number=number: stepper.step(batch, size, 1e-4, number))
    for number in range(4):
        state = Progress(step=number)
        timed("finite", stepper.engine.finite)
        timed("save", lambda n=number, s=state: checkpoints.save_step(
            n, lambda folder: save_state(stepper.engine, s, folder)))  # fmt: skip
        timed("best", lambda n=number: checkpoints.save_best(n, lambda folder: save_weights(stepper.engine, folder)))
    mean = {name: sum(found) / len(found) for name, found in seconds.items()}
    total = training.max_steps or 200
    saves = -(-total // training.checkpoint_every)
    guarded = saves * (mean["save"] + mean["finite"]) + mean["best"]
    share = guarded / (total * mean["step"])
    size = sum(path.stat().st_size for path in (checkpoints.folder / "step-000003").iterdir())
    (Path(place) / "cost.json").write_text(json.dumps({"share": share, "seconds": mean, "bytes": size}))
    return 0


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
