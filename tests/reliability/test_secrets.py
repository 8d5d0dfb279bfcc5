"""Row 12: planted keys are in no file of the run directory, W&B's own files included."""

from functools import partial
from pathlib import Path

import pytest

from tests.helpers.cases import Case, check_case, command
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow

KEY = "f00dfeedf00dfeedf00dfeedf00dfeedf00dfeed"
TOKEN = "hf_plantedplantedplantedplanted"
PASSWORD = "correct-horse-9"
ENVIRONMENT = {"WANDB_API_KEY": KEY, "HF_TOKEN": TOKEN, "MY_DB_PASSWORD": PASSWORD}
REFUSED = (  # overrides that hold one, and the key that the message names
    (f"logger.entity={KEY}", "logger.entity"),
    (f"logger.group={TOKEN}", "logger.group"),
    (f"logger.project=runs-{PASSWORD}", "logger.project"),
    (f"source.root='https://me:{PASSWORD}x@example.org/rows'", "source.root"),
    (f"+model.shape.note={TOKEN}", "model.shape.note"),
    (f"model.hub={TOKEN}/model", "model.hub"),
    ("logger.entity='${oc.env:MY_DB_PASSWORD}'", "logger.entity"),
)


def cases(full: bool) -> list[Case]:
    """Keys in the environment of a run with W&B; keys in overrides; a key in the text of an error."""
    found = [Case("in the environment, logger=wandb", _environment), Case("in an error", _error)]
    overrides = REFUSED if full else REFUSED[::2]
    found += [
        Case(f"in {key}, {number}", partial(_override, text, key)) for number, (text, key) in enumerate(overrides)
    ]
    return [*found, Case("a commit is no secret", _commit)]


def _hits(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        f"{path}: {name}"
        for path in files
        for name, secret in ENVIRONMENT.items()
        if secret.encode() in path.read_bytes() or secret in path.name
    ]


def _environment(folder: Path) -> None:
    run = command(folder, "logger=wandb", "logger.mode=offline")
    assert nursery().train(run, folder / "log", **ENVIRONMENT) == 0
    assert list((folder / "run" / "wandb").rglob("*.wandb"))
    assert _hits(folder) == []


def _override(text: str, key: str, folder: Path) -> None:
    run = command(folder, text, "logger=wandb", "logger.mode=offline")
    assert nursery().train(run, folder / "log", **ENVIRONMENT) == 2
    # A variable that is not on the list of places and names is not read at all.
    reason = (
        "MY_DB_PASSWORD is not among the variables" if "oc.env" in text else f"{key}: holds what looks like a secret"
    )
    assert reason in (folder / "log").read_text()
    assert not (folder / "run").exists()
    assert _hits(folder) == []  # nor in what it printed


def _error(folder: Path) -> None:
    fault = {"at": "mosld.training.step:Stepper.step", "call": 2, "do": f"say https://me:{PASSWORD}@host {KEY}"}
    assert nursery().train(command(folder), folder / "log", [fault], **ENVIRONMENT) == 1
    assert "RuntimeError: https://***@host ***" in (folder / "run" / "results.json").read_text()
    assert _hits(folder / "run") == []


def _commit(folder: Path) -> None:
    from mosld.config.compose import load_config

    assert load_config(["model=llama2_7b", f"model.revision={KEY}"]).model.revision == KEY


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
