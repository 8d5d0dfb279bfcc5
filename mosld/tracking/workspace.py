"""The saved workspace on Weights & Biases: sections and panels over the keys that mosld's runs send.

`wandb-workspaces` has no public way to a workspace without a network: `workspace_spec` uses its private one, so its
version is pinned in constraints.txt and tested.
"""

import json
from pathlib import Path

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2.interface import Panel

from mosld.common.errors import UserError
from mosld.common.files import JsonObject
from mosld.data.tasks import TASKS
from mosld.tracking.wandb import has_api_key

AVERAGE = "test/average"
SWEPT_KEYS = {"dropout": "method.dropout", "rank": "method.rank"}


def make_workspace(entity: str, project: str, name: str) -> ws.Workspace:
    """The workspace; nothing is sent."""
    sections: dict[str, list[Panel]] = {
        "Accuracy by method and task": _accuracy_bars("method.name"),
        "Single task against mixture": _accuracy_bars("data.name"),
        "Sweeps of dropout and rank": _sweep_panels(),
        "Loss": [
            _line_plot("cross entropy", "train/cross_entropy"),
            _line_plot("cross entropy over tokens", "by_tokens/cross_entropy", x="train/tokens"),
            _line_plot("balance loss", "train/balance_loss"),
            _line_plot("validation accuracy", "validation/average"),
            _line_plot("validation loss", "validation_loss/average"),
            _line_plot("gradient norm", "train/grad_norm"),
            _line_plot("tokens per second", "train/tokens_per_second"),
        ],
        "Expert load": [
            _line_plot("share of the busiest expert", "train/busiest_expert_share"),
            _line_plot("share of the idlest expert", "train/idlest_expert_share"),
        ],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=title, panels=panels, is_open=True) for title, panels in sections.items()],
        settings=ws.WorkspaceSettings(x_axis="train/step", max_runs=50),
        auto_generate_panels=True,
    )


def send_workspace(workspace: ws.Workspace) -> str:
    """Save the workspace on the server and return its address.

    Raises:
        UserError: no API key is configured, or the server refuses.
    """
    if not has_api_key():
        raise UserError("no W&B key is configured: `wandb login`, or --spec FILE to write the workspace to a file.")
    try:
        if not workspace.entity:
            workspace.entity = wandb.Api().default_entity
        return workspace.save().url
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise UserError(f"the workspace cannot be saved: {error}") from error


def write_workspace(workspace: ws.Workspace, path: Path) -> None:
    """Write the workspace to a JSON file: entity, project, name, and the spec that would be sent."""
    tree = {"entity": workspace.entity, "project": workspace.project, "name": workspace.name}
    path.write_text(json.dumps({**tree, "spec": workspace_spec(workspace)}, indent=2) + "\n", encoding="utf-8")


def workspace_spec(workspace: ws.Workspace) -> JsonObject:
    """What would be sent to the server, as a plain tree."""
    return json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def _accuracy_bars(key: str) -> list[Panel]:
    """Average accuracy and accuracy on each task, with a bar per value of a config key: the mean of its runs."""
    metrics = {"average": AVERAGE} | {task: f"test/{task}/accuracy" for task in TASKS}
    return [
        wr.BarPlot(
            title=title,
            metrics=[metric],
            groupby=wr.Config(key),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
        )
        for title, metric in metrics.items()
    ]


def _sweep_panels() -> list[Panel]:
    average = wr.SummaryMetric(AVERAGE)
    scatter_plots = [
        wr.ScatterPlot(title=f"accuracy over {title}", x=wr.Config(key), y=average, running_ymean=True)
        for title, key in SWEPT_KEYS.items()
    ]
    metrics = [*(wr.Config(key) for key in ("method.name", *SWEPT_KEYS.values(), "seed")), average]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=metric) for metric in metrics]
    return [*scatter_plots, wr.ParallelCoordinatesPlot(title="all runs", columns=columns)]


def _line_plot(title: str, metric: str, x: str = "train/step") -> Panel:
    return wr.LinePlot(title=title, x=x, y=[metric])
