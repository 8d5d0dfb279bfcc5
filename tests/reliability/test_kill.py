"""Row 2: SIGKILL at every file operation of a save; the same command again goes on from the last whole checkpoint."""

from functools import partial
from pathlib import Path

import pytest

from tests.helpers.cases import Case, Outcome, check_case, command, newest_step, status, weights
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow

STEP = {"inside": "mosld.training.checkpoint:Checkpoints.save_step", "call": 2}  # of steps 2, 4, 6: the second
ADAPTER = {"inside": "mosld.recipes.train:save_trained", "call": 1}
SAVES = {"checkpoint": STEP, "adapter": ADAPTER}


def cases(full: bool) -> list[Case]:
    """Every point of a save alone, in a process each; whole commands at every point, or at a few."""
    found = [Case("every point of a save", _every_point)]
    for name in SAVES:
        if full:
            found.append(Case(f"{name}: the command killed at every operation, and again", partial(_all, name)))
        else:
            found += [
                Case(f"{name} killed {when} operation {number}", partial(_point, name, number, when))
                for number, when in ((3, "half"), (10, "before"))
            ]
    return found


def _every_point(folder: Path) -> Outcome:
    """The third save of a folder that keeps two, killed at every operation: the second or the third is the newest."""
    outcome = Outcome(0)
    for when in ("before", "half", "after"):
        operation, code = 0, -9
        while code == -9:
            operation += 1
            place = folder / f"{when}-{operation}"
            fault = {**STEP, "call": 3, "operation": operation, "when": when, "do": "SIGKILL"}
            code = (
                nursery().wait(
                    nursery().start("tests.reliability.test_kill:save_three", [str(place)], folder / "log", [fault])
                )
                or 0
            )
            newest = nursery().wait(nursery().start("tests.reliability.test_kill:newest", [str(place)], folder / "log"))
            outcome.cases += 1
            if newest not in (2, 3) or (code == 0 and newest != 3):
                outcome.failures.append(f"{when} operation {operation}: exit {code}, the newest is step {newest}")
    if outcome.cases < 40:
        outcome.failures.append(f"a save makes {outcome.cases / 3:.0f} operations: the hooks miss most of them")
    return outcome


def save_three(place: str) -> int:
    """In a child: three checkpoints of which two are kept."""
    import torch

    from mosld.training import tensor_files
    from mosld.training.checkpoint import Checkpoints

    checkpoints = Checkpoints(Path(place), keep_last=2)

    def write(folder: Path) -> None:
        tensor_files.save_file({"weight": torch.arange(999.0)}, folder / "weights.safetensors")
        (folder / "progress.json").write_text('{"best_step": 0}')

    for step in (1, 2, 3):
        checkpoints.save_step(step, write)
    return 0


def newest(place: str) -> int:
    """In a child: the step of the newest whole checkpoint, after a further save and with nothing half written left."""
    from mosld.training.checkpoint import Checkpoints

    checkpoints = Checkpoints(Path(place), keep_last=2)
    found = checkpoints.newest(print)
    checkpoints.save_step(9, lambda folder: (folder / "progress.json").write_text("{}"))
    whole = checkpoints.newest(print)
    left = [path.name for path in Path(place).iterdir() if path.name.startswith(".tmp")]
    return int(found.name[-1]) if found and whole and whole.name == "step-000009" and not left else 99


def _command(name: str, operation: int, when: str, folder: Path, straight: str | None = None) -> int | None:
    """A command killed at one operation and given again; returns its exit code, 0 where there is no such operation."""
    fault = {**SAVES[name], "operation": operation, "when": when, "do": "SIGKILL"}
    if straight is None:
        assert nursery().train(command(folder, f"output_dir={folder / 'one'}"), folder / "log") == 0
        straight = weights(folder / "one")
    code = nursery().train(command(folder), folder / "log", [fault])
    if code == 0:
        return 0
    assert code == -9
    assert status(folder / "run") is None
    assert newest_step(folder / "run") >= 2
    assert nursery().train(command(folder), folder / "log-again") == 0
    assert weights(folder / "run") == straight
    assert not list((folder / "run").rglob(".tmp-*"))
    if name == "checkpoint":
        assert "resuming from step-00000" in (folder / "log-again").read_text()
    return code


def _point(name: str, operation: int, when: str, folder: Path) -> None:
    assert _command(name, operation, when, folder) == -9


def _all(name: str, folder: Path) -> Outcome:
    outcome = Outcome(0)
    assert nursery().train(command(folder, f"output_dir={folder / 'one'}"), folder / "log") == 0
    straight = weights(folder / "one")
    for when in ("before", "half", "after"):
        operation, code = 0, -9
        while code == -9:
            operation += 1
            place = folder / f"{when}-{operation}"
            place.mkdir()
            try:
                code = _command(name, operation, when, place, straight) or 0
                outcome.cases += code == -9
            except AssertionError as error:
                outcome.cases += 1
                outcome.failures.append(f"{name}, {when} operation {operation}: {error}")
    return outcome


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
