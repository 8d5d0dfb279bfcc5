"""Row 3: bits flipped in, and bytes cut off, all files of the newest checkpoint: each is noticed and said."""

import random
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.cases import Case, Outcome, check_case, command, weights
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow


def cases(full: bool) -> list[Case]:
    """Damages to a real checkpoint, and whole commands that go on from the one before."""
    found = [Case("flipped bits and truncations", partial(_damages, 500 if full else 60))]
    files = ("weights.safetensors", "optimizer.safetensors", "progress.json", "manifest.json")
    found += [Case(f"a run with a damaged {name}", partial(_run, name)) for name in (files if full else files[1:2])]
    return [*found, Case("all checkpoints damaged", _all_damaged)]


def _damages(count: int, folder: Path) -> Outcome:
    from mosld.training.checkpoint import Checkpoints

    assert nursery().train(command(folder), folder / "log") == 0
    checkpoints, rng, outcome = Checkpoints(folder / "run" / "checkpoints", 2), random.Random(0), Outcome(count)
    files = sorted((checkpoints.folder / "step-000006").iterdir())
    for trial in range(count):
        path = files[trial % len(files)]
        whole = path.read_bytes()
        broken, place = bytearray(whole), rng.randrange(len(whole))
        if trial % 3 == 0:
            broken = broken[:place]
        else:
            broken[place] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        said: list[str] = []
        newest = checkpoints.newest(said.append)
        if newest is None or newest.name != "step-000004" or "step-000006 is damaged" not in " ".join(said):
            outcome.failures.append(f"{path.name}, trial {trial}, byte {place}: {newest}, {said}")
        path.write_bytes(whole)
    newest = checkpoints.newest(lambda _: None)
    assert newest is not None
    assert newest.name == "step-000006"
    return outcome


def _interrupted(folder: Path) -> None:
    """A straight run in `one`, and one in `run` that was killed after step 5."""
    assert nursery().train(command(folder, f"output_dir={folder / 'one'}"), folder / "log") == 0
    kill = {"at": "mosld.training.step:Stepper.step", "call": 6, "do": "SIGKILL"}
    assert nursery().train(command(folder), folder / "log", [kill]) == -9


def _run(name: str, folder: Path) -> None:
    _interrupted(folder)
    path = folder / "run" / "checkpoints" / "step-000004" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert nursery().train(command(folder), folder / "log-again") == 0
    said = (folder / "log-again").read_text()
    assert "checkpoint step-000004 is damaged and skipped" in said
    assert "resuming from step-000002" in said
    assert weights(folder / "run") == weights(folder / "one")


def _all_damaged(folder: Path) -> None:
    _interrupted(folder)
    for path in (folder / "run" / "checkpoints").glob("step-*/weights.safetensors"):
        path.write_bytes(b"")
    shutil.rmtree(folder / "run" / "predictions", ignore_errors=True)
    assert nursery().train(command(folder), folder / "log-again") == 0
    assert "no checkpoint is whole: training starts at step 0 again" in (folder / "log-again").read_text()
    assert weights(folder / "run") == weights(folder / "one")


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
