"""Row 5: SIGTERM, SIGUSR1 and SIGINT: the step is saved, exit 75, status interrupted, and the run ends bit-equal."""

import json
import os
import random
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cases import Case, Outcome, check_case, command, losses, newest_step, status, weights
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow

STEP = "mosld.training.step:Stepper.step"
SIGNALS = ("SIGTERM", "SIGUSR1", "SIGINT")
STAGES = {  # where a signal comes in, and after which step the run is saved (None: as it was before)
    "in a step": ({"at": "mosld.training.step:Stepper._forward", "call": 6}, 3),
    "between two steps": ({"at": STEP, "call": 4, "when": "before"}, 4),
    "at the last step": ({"at": STEP, "call": 6, "when": "after"}, 6),
    "scoring the untrained model": ({"at": "mosld.recipes.context:RunContext.score", "call": 1}, None),
    "in a validation": ({"at": "mosld.training.loop:Loop._validate", "call": 1, "when": "before"}, 3),
    "in a save": ({"at": "mosld.training.tensor_files:save_file", "call": 3}, None),
    "in the last scoring": ({"at": "mosld.recipes.context:RunContext.score", "call": 4}, 6),
    "saving the adapter": ({"at": "mosld.recipes.train:save_trained", "call": 1, "when": "before"}, 6),
}
RUN = ("training.validate_every=3", "evaluation.base=true", "training.checkpoint_every=100")


def cases(full: bool) -> list[Case]:
    """A signal in every stage, at random times, repeated, in stage 1 of moa, and in several processes."""
    found = [
        Case(f"{name} {where}", partial(_stage, name, where))
        for number, where in enumerate(STAGES)
        for name in (SIGNALS if full else [SIGNALS[number % 3]])
    ]
    found += [Case("at random times", partial(_random, 40 if full else 1))]
    found += [Case("twice: a launcher's SIGTERM waits, a person's Ctrl-C does not", _twice)]
    counts = (1, 2) if full else (2,)
    found += [Case(f"stage 1 of moa, {count} processes", partial(_domains, count)) for count in counts]
    found.append(Case("different ones to two processes", partial(_several, 2, {0: "SIGUSR1", 1: "SIGINT"})))
    if full:
        found.append(Case("to one process of two", partial(_several, 2, {1: "SIGTERM"})))
        found.append(Case("to one process of four", partial(_several, 4, {2: "SIGUSR1"})))
    return found


def _straight(folder: Path, *more: str) -> str:
    """The weights of a run that nothing disturbs; made once for all cases."""
    kept = folder.parent / f"straight{len(more)}.json"
    if not kept.is_file():
        assert nursery().train(command(folder, *more, f"output_dir={folder / 'one'}"), folder / "log-one") == 0
        kept.write_text(json.dumps(weights(folder / "one")))
    return json.loads(kept.read_text())


def _stage(name: str, where: str, folder: Path) -> None:
    fault, saved = STAGES[where]
    straight, run = _straight(folder, *RUN), folder / "run"
    assert nursery().train(command(folder, *RUN), folder / "log", [{**fault, "do": name}]) == 75
    assert status(run) == "interrupted"
    assert not list(run.rglob(".tmp-*"))
    if saved is not None:
        assert newest_step(run) == len(losses(run))
        assert newest_step(run) == saved
    assert nursery().train(command(folder, *RUN), folder / "log") == 0
    assert weights(run) == straight
    assert [line["step"] for line in _steps(run)] == list(range(1, 7))


def _steps(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "cross_entropy" in line]


def _random(count: int, folder: Path) -> Outcome:
    rng, outcome = random.Random(0), Outcome(count)
    more = (*RUN, "training.max_steps=18", "training.epochs=9")
    straight = _straight(folder, *more)
    for trial in range(count):
        run, name = folder / f"run{trial}", rng.choice(SIGNALS)
        arguments = command(folder, *more, f"output_dir={run}")
        child = nursery().start("mosld.train:main", [arguments], folder / "log")
        while not (run / "base_scores.json").exists():
            time.sleep(0.01)
        time.sleep(rng.random())
        with suppress(ProcessLookupError):
            os.kill(child, signal.Signals[name])
        code = nursery().wait(child)
        lost = len(losses(run)) - newest_step(run) if (run / "metrics.jsonl").exists() else 0
        told = code == 75 and status(run) == "interrupted" and lost == 0
        finished = code == 0 and status(run) == "finished"
        again = nursery().train(arguments, folder / "log")
        if not (told or finished) or again != 0 or weights(run) != straight:
            outcome.failures.append(f"{name} in trial {trial}: exit {code}, {lost} steps lost, then {again}")
    return outcome


def _twice(folder: Path) -> None:
    straight = _straight(folder, *RUN)
    for name, steps in (("SIGTERM SIGTERM", 4), ("ctrl-c ctrl-c", 0)):
        run = folder / name.replace(" ", "")
        arguments = command(folder, *RUN, f"output_dir={run}")
        assert nursery().train(arguments, folder / "log", [{"at": STEP, "call": 4, "do": name}]) == 75
        assert status(run) == "interrupted"
        assert newest_step(run) == (steps or 3)  # the validation of step 3 was the best and is saved
        assert nursery().train(arguments, folder / "log") == 0
        assert weights(run) == straight


def _domains(count: int, folder: Path) -> None:
    fault = {"at": STEP, "call": 5, "do": "SIGTERM"}  # the second of three steps of the second task's expert
    run, one = (command(folder, f"output_dir={folder / name}", method="moa") for name in ("run", "one"))
    if count == 1:
        assert nursery().train(one, folder / "log") == 0
        assert nursery().train(run, folder / "log", [fault]) == 75
    else:
        assert nursery().train_several(count, one, folder / "log") == [0] * count
        assert nursery().train_several(count, run, folder / "log", {1: [fault]}) == [75] * count
    assert status(folder / "run") == "interrupted"
    assert newest_step(folder / "run" / "experts" / "arc_e") == 2
    if count == 1:
        assert nursery().train(run, folder / "log-again") == 0
    else:
        assert nursery().train_several(count, run, folder / "log-again") == [0] * count
    assert "the expert of obqa" not in "".join(path.read_text() for path in folder.glob("log-again*"))
    assert weights(folder / "run") == weights(folder / "one")


def _several(count: int, given: dict[int, str], folder: Path) -> None:
    one, run = (command(folder, *RUN, f"output_dir={folder / name}") for name in ("one", "run"))
    assert nursery().train_several(count, one, folder / "log") == [0] * count
    faults = {rank: [{"at": STEP, "call": 4, "do": name}] for rank, name in given.items()}
    assert nursery().train_several(count, run, folder / "log", faults) == [75] * count
    assert status(folder / "run") == "interrupted"
    assert newest_step(folder / "run") == len(losses(folder / "run")) == 4
    assert nursery().train_several(count, run, folder / "log") == [0] * count
    assert weights(folder / "run") == weights(folder / "one")


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
