"""The saved workspace on Weights & Biases: sections and panels over the keys that mosld's runs send.

`wandb-workspaces` has no public way to a workspace without a network: `spec_of` uses its private one, so its version is
pinned in constraints.txt and tested.
"""

import json
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from mosld.data.tasks import TASKS

ACCURACY = "test/{}/accuracy"
MEAN: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}


def make_workspace(entity: str, project: str, name: str) -> Any:
    """The workspace; nothing is sent."""
    sections = [
        ("Accuracy by method and task", _bars("method.name")),
        ("Single task against mixture", _bars("data.name")),
        ("Sweeps of dropout and rank", _sweeps()),
        ("Loss", _losses()),
        ("Expert load", _load()),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=title, panels=panels, is_open=True) for title, panels in sections],
        settings=ws.WorkspaceSettings(x_axis="train/step", max_runs=50),
        auto_generate_panels=True,
    )


def spec_of(workspace: Any) -> dict[str, Any]:
    """What would be sent to the server, as a plain tree."""
    return json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def write_spec(workspace: Any, path: Path) -> None:
    """The workspace as a JSON file: where it belongs, its name, and its spec."""
    tree = {"entity": workspace.entity, "project": workspace.project, "name": workspace.name}
    path.write_text(json.dumps({**tree, "spec": spec_of(workspace)}, indent=2) + "\n", encoding="utf-8")


def _bars(group: str) -> list[Any]:
    """Accuracy on average and for each task, a bar for each value of a config key, over the runs that share it."""
    titles = {"average": "test/average"} | {task: ACCURACY.format(task) for task in TASKS}
    return [
        wr.BarPlot(title=title, metrics=[metric], groupby=wr.Config(group), **MEAN) for title, metric in titles.items()
    ]


def _sweeps() -> list[Any]:
    average = wr.SummaryMetric("test/average")
    keys = {"dropout": "method.dropout", "rank": "method.rank"}
    scatter = [
        wr.ScatterPlot(title=f"accuracy over {title}", x=wr.Config(key), y=average, running_ymean=True)
        for title, key in keys.items()
    ]
    columns: list[Any] = [*(wr.Config(key) for key in ("method.name", *keys.values(), "seed")), average]
    every = [wr.ParallelCoordinatesPlotColumn(metric=column) for column in columns]
    return [*scatter, wr.ParallelCoordinatesPlot(title="all runs", columns=every)]


def _losses() -> list[Any]:
    return [
        _line("cross entropy", "train/cross_entropy"),
        _line("cross entropy over tokens", "by_tokens/cross_entropy", x="train/tokens"),
        _line("balance loss", "train/balance_loss"),
        _line("validation accuracy", "validation/average"),
        _line("gradient norm", "train/grad_norm"),
        _line("tokens per second", "train/tokens_per_second"),
    ]


def _load() -> list[Any]:
    return [
        _line("share of the busiest expert", "train/busiest_expert_share"),
        _line("share of the idlest expert", "train/idlest_expert_share"),
    ]


def _line(title: str, *metrics: str, x: str = "train/step") -> Any:
    return wr.LinePlot(title=title, x=x, y=list(metrics))
