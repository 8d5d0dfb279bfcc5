"""Row 8: a resume after the data or the config changed is refused with the difference; resume=force goes on."""

import json
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.cases import Case, check_case, command, status
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow

KEYS = {
    "method.rank=4": "method.rank: was 8, is 4",
    "training.learning_rate=1e-4": "training.learning_rate: was 0.003, is 0.0001",
    "seed=1": "seed: was 0, is 1",
    "training.batch_size=8": "training.batch_size: was 4, is 8",
    "method=mosl": "method.name: was mosld, is mosl",
    "prompt=cloze": "prompt: was letter, is cloze",
    "training.schedule=cosine": "training.schedule: was linear, is cosine",
}


def cases(full: bool) -> list[Case]:
    """A key or a row changed, each in a finished and in an interrupted run."""
    found = [Case(key, partial(_config, key)) for key in (KEYS if full else list(KEYS)[:2])]
    splits = ("train", "validation", "test") if full else ("train",)
    found += [Case(f"a {split} row edited", partial(_rows, split)) for split in splits]
    return [
        *found,
        Case("a harmless key changed", _harmless),
        Case("weights that do not fit, forced", _other_shape),
        Case("config.yaml damaged", partial(_damaged, "config.yaml")),
        Case("data.json damaged", partial(_damaged, "data.json")),
    ]


def _interrupted(folder: Path) -> None:
    fault = {"at": "mosld.training.step:Stepper.step", "call": 3, "do": "SIGTERM"}
    assert nursery().train(command(folder), folder / "log", [fault]) == 75


def _refused(folder: Path, arguments: list[str], words: str) -> None:
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    assert nursery().train(arguments, folder / "log-refused") == 2
    said = (folder / "log-refused").read_text()
    assert words in said
    assert "training.resume=force" in said
    assert {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()} == before


def _config(key: str, folder: Path) -> None:
    _interrupted(folder)
    _refused(folder, command(folder, key), KEYS[key])
    if key.startswith("method"):
        return  # the weights are others: see _other_shape
    assert nursery().train(command(folder, key, "training.resume=force"), folder / "log-forced") == 0
    said = (folder / "log-forced").read_text()
    assert "resuming in spite of what differs" in said
    assert "resuming from step-000003" in said
    assert status(folder / "run") == "finished"


def _rows(split: str, folder: Path) -> None:
    _interrupted(folder)
    path = folder / "data" / "obqa" / f"{split}.jsonl"
    first, *rest = path.read_text().splitlines()
    row = json.loads(first)
    row["question"] += " Please."
    path.write_text("\n".join([json.dumps(row), *rest]) + "\n")
    _refused(folder, command(folder), "data: the rows changed (fingerprint was")
    assert nursery().train(command(folder, "training.resume=force"), folder / "log-forced") == 0
    assert "resuming from step-000003" in (folder / "log-forced").read_text()


def _harmless(folder: Path) -> None:
    _interrupted(folder)
    assert nursery().train(command(folder, "training.checkpoint_every=1", "logger.every=2"), folder / "log-again") == 0
    assert "resuming from step-000003" in (folder / "log-again").read_text()


def _other_shape(folder: Path) -> None:
    _interrupted(folder)
    assert nursery().train(command(folder, "method.rank=4", "training.resume=force"), folder / "log-forced") == 2
    said = (folder / "log-forced").read_text()
    assert "holds the weights of another model or method" in said
    assert "Traceback" not in said
    assert nursery().train(command(folder, "method.rank=4", "training.resume=never"), folder / "log-anew") == 0


def _damaged(name: str, folder: Path) -> None:
    _interrupted(folder)
    (folder / "run" / name).write_text("{ : not a file of ours")
    _refused(folder, command(folder), "is damaged")
    assert nursery().train(command(folder, "training.resume=force"), folder / "log-forced") == 0
    assert "Traceback" not in (folder / "log-refused").read_text()


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
