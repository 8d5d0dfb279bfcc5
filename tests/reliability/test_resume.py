"""Row 1: a run that is resumed at any step ends with the bits of a straight run.

Every checkpoint of a straight run is copied alone into a fresh folder, a fresh model goes on from it, and weights,
optimiser and rows are compared: in the short form one step later (from there on both are the same run), in the full
form at the end.
"""

import json
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cases import Case, Outcome, check_case, command, losses, weights
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow

METHODS = (
    "full", "hydralora", "lora", "mixlora", "moa", "mola", "molora", "mosl", "mosld", "mosld_b", "prefix", "sira",
    "comol", "flylora", "loramoe", "lora_matched", "rlora", "smora",
)  # fmt: skip
STEPS = 6
Cell = tuple[str, int]  # method, rows per forward pass


class Stopped(Exception):
    """The step up to which a run was wanted is taken."""


def cases(full: bool) -> list[Case]:
    """Method by method, accumulation 1 and 4, in 1, 2 and 4 processes; and whole commands, killed in either stage."""
    every = [(method, micro) for method in METHODS for micro in (4, 1)]
    if full:
        plan = {1: every, 2: every, 4: every}
    else:
        plan = {
            1: [(method, 4 - 3 * (place % 2)) for place, method in enumerate(METHODS)],
            2: [("mosld", 1), ("mixlora", 4), ("moa", 1), ("prefix", 1)],
        }
        plan |= {4: [("mosld", 1)]}
    found = [
        Case(f"{count} processes, {len(cells)} cells", partial(_cells, count, cells, full))
        for count, cells in plan.items()
    ]
    kills = range(1, 13) if full else (2, 7)  # moa: 3 steps for each of two experts, then 6 for the mixture
    found += [Case(f"moa killed at step {kill} of both stages", partial(_killed, "moa", kill, 1)) for kill in kills]
    found += [
        Case("moa killed in stage 1 and in stage 2", partial(_killed_twice, "moa", (2, 7))),
        Case("mosld killed twice", partial(_killed_twice, "mosld", (3, 2))),
    ]
    if full:
        found += [Case(f"moa killed at step {kill}, 2 processes", partial(_killed, "moa", kill, 2)) for kill in (2, 8)]
        found += [
            Case(f"{method} killed at step 4", partial(_killed, method, 4, 1))
            for method in METHODS
            if method not in ("moa", "full")
        ]
    return found


def _cells(count: int, cells: list[Cell], to_the_end: bool, folder: Path) -> Outcome:
    children = nursery().start_several(
        count, "tests.reliability.test_resume:prove", [str(folder), cells, to_the_end], folder / "log"
    )  # all of one run
    codes = [nursery().wait(child, 1800) for child in children]
    if codes != [0] * count:
        return Outcome(len(cells), [f"exit codes {codes}: {(folder / 'log-0').read_text()[-2000:]}"])
    return Outcome(**json.loads((folder / "outcome.json").read_text()))


def prove(place: str, cells: list[Cell], to_the_end: bool) -> int:
    """In each process of a run: every cell at every step; the main one writes what failed."""
    from mosld.distributed.processes import processes

    group, folder, failures, count = processes(), Path(place), list[str](), 0
    for method, micro in cells:
        straight = folder / f"{method}-{micro}"
        steps = STEPS if to_the_end else 4
        wanted = _run(straight, method, micro, steps)
        for step in range(1, steps):
            again, until = folder / f"{method}-{micro}-{step}", steps if to_the_end else step + 1
            if group.main:
                shutil.copytree(straight / f"step-{step:06d}", again / f"step-{step:06d}")
            group.broadcast(None)
            rows = _run(again, method, micro, until)
            count += 1
            same = rows == wanted[step:until]
            if group.main and not (same and _sums(straight, until) == _sums(again, until)):
                failures.append(
                    f"{method}, {micro} rows a pass, from step {step}: rows {'alike' if same else 'differ'}"
                )
    if group.main:
        (folder / "outcome.json").write_text(json.dumps({"cases": count, "failures": failures}))
    return 0


def _sums(folder: Path, step: int) -> list[Any]:
    """The checksums of weights and optimiser after a step."""
    manifest = json.loads((folder / f"step-{step:06d}" / "manifest.json").read_text())
    return [manifest[name] for name in ("weights.safetensors", "optimizer.safetensors")]


def _run(folder: Path, method: str, micro: int, until: int) -> list[list[str]]:
    """Train, or go on, up to a step; returns the ids of the rows of every step taken."""
    from tests.helpers.toy_runs import small_loop

    loop, rows = small_loop(folder, method, micro, STEPS), list[list[str]]()
    take = loop.stepper.step

    def step(examples: Any, size: int, rate: float, number: int, *rest: Any) -> Any:
        if number == until:
            raise Stopped
        rows.append([example.row.id for example in examples])
        return take(examples, size, rate, number, *rest)

    loop.stepper.step = step  # type: ignore[method-assign]
    with suppress(Stopped):
        loop.run()
    return rows


def _kill(step: int) -> list[dict[str, Any]]:
    return [{"at": "mosld.training.step:Stepper.step", "call": step, "do": "SIGKILL"}]


def _killed(method: str, step: int, count: int, folder: Path) -> None:
    """Whole commands: SIGKILL before an optimiser step, the same command again."""
    more = ["training.checkpoint_every=1"]
    kill = _kill(step)
    straight, run = (command(folder, *more, f"output_dir={folder / name}", method=method) for name in ("one", "two"))
    if count == 1:
        assert nursery().train(straight, folder / "log") == 0
        assert nursery().train(run, folder / "log", kill) == -9
        assert nursery().train(run, folder / "log") == 0
    else:
        assert nursery().train_several(count, straight, folder / "log") == [0] * count
        codes = nursery().train_several(count, run, folder / "log", {1: kill})
        assert codes[1] == -9
        assert codes[0] not in (0, 75)
        assert nursery().train_several(count, run, folder / "log") == [0] * count
    assert weights(folder / "two") == weights(folder / "one")


def _killed_twice(method: str, steps: tuple[int, int], folder: Path) -> None:
    """Whole commands: SIGKILL before an optimiser step of the first start, and before one of the second."""
    straight, run = (
        command(folder, "training.checkpoint_every=1", f"output_dir={folder / name}", method=method)
        for name in ("one", "two")
    )
    assert nursery().train(straight, folder / "log") == 0
    assert [nursery().train(run, folder / "log", _kill(step)) for step in steps] == [-9, -9]
    assert nursery().train(run, folder / "log") == 0
    assert weights(folder / "two") == weights(folder / "one")
    assert losses(folder / "two") == losses(folder / "one")


@pytest.mark.parametrize("method", METHODS)
def test_loop_stopped_and_resumed_twice_changes_no_bit(method, tmp_path):
    wanted = _run(tmp_path / "straight", method, 2, STEPS)
    rows = [row for until in (2, 4, STEPS) for row in _run(tmp_path / "parts", method, 2, until)]
    assert rows == wanted
    assert _sums(tmp_path / "parts", STEPS) == _sums(tmp_path / "straight", STEPS)


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
