"""`mosld.dashboard`: the spec without a network, its panels name keys that runs send, and what is refused."""

import importlib.metadata
import json
from pathlib import Path

import pytest

pytest.importorskip("wandb_workspaces")

from mosld import dashboard
from mosld.data.tasks import TASKS

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "workspace.json"
    assert dashboard.main(["--spec", str(path), "--entity", "team", "--project", "mine"]) == 0
    tree = json.loads(path.read_text())
    assert (tree["entity"], tree["project"], tree["name"]) == ("team", "mine", "mosld")
    return {s["name"]: s["panels"] for s in tree["spec"]["section"]["panelBankConfig"]["sections"]}


def test_installed_version_is_the_pinned_one():
    assert f"wandb-workspaces=={importlib.metadata.version('wandb-workspaces')}\n" in CONSTRAINTS.read_text()


@pytest.mark.parametrize(
    ("title", "group"),
    [("Accuracy by method and task", "method.value.name"), ("Single task against mixture", "data.value.name")],
)
def test_accuracy_has_a_panel_per_task(sections, title, group):
    bars = {panel["config"]["chartTitle"]: panel["config"] for panel in sections[title]}
    assert {"average", *TASKS} == set(bars)
    assert bars["obqa"]["metrics"] == ["test/obqa/accuracy"]
    assert {bar["groupBy"] for bar in bars.values()} == {group}


def test_sweeps_are_drawn_over_dropout_and_rank(sections):
    axes = [panel["config"].get("xAxis") for panel in sections["Sweeps of dropout and rank"]]
    assert axes[:2] == ["config:method.value.dropout", "config:method.value.rank"]


def test_curves_use_keys_that_runs_send(sections):
    drawn = {metric for title in ("Loss", "Expert load") for panel in sections[title]
             for metric in panel["config"]["metrics"]}  # fmt: skip
    assert drawn == {
        "train/cross_entropy", "by_tokens/cross_entropy", "train/balance_loss", "validation/average",
        "validation_loss/average",
        "train/grad_norm", "train/tokens_per_second", "train/busiest_expert_share", "train/idlest_expert_share",
    }  # fmt: skip


def test_sending_without_an_api_key_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert dashboard.main([]) == 2
    assert "--spec FILE" in capsys.readouterr().err


def test_spec_that_cannot_be_written_is_refused(tmp_path, capsys):
    assert dashboard.main(["--spec", str(tmp_path / "no" / "file.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err
