"""Where measurements go besides the run directory: one small interface, two kinds."""

import os
from typing import Any, Protocol

from mosld.common.process import is_main
from mosld.config.schema import Config
from mosld.evaluation.evaluate import Evaluation
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory


class Tracker(Protocol):
    """What the pipeline tells a dashboard."""

    def step(self, values: dict[str, Any]) -> None:
        """A line of metrics.jsonl."""

    def finish(self, results: dict[str, Any], evaluation: Evaluation | None) -> None:
        """The content of results.json, and the predictions of a finished run."""


class NoTracker:
    """`logger=files`: the run directory is all."""

    def step(self, values: dict[str, Any]) -> None:
        """Nothing to do."""

    def finish(self, results: dict[str, Any], evaluation: Evaluation | None) -> None:
        """Nothing to do."""


def make_tracker(config: Config, run: RunDirectory, overrides: list[str], console: Console) -> Tracker:
    """The tracker that the config names."""
    if config.logger.name != "wandb" or os.environ.get("WANDB_MODE") == "disabled" or not is_main():
        return NoTracker()
    from mosld.tracking.wandb import WandbTracker  # importing wandb takes a second

    return WandbTracker(config, run, overrides, console)
