"""Where measurements go besides the run directory: one small interface, two kinds."""

import dataclasses
import os
from typing import Protocol

from mosld.common.files import JsonObject
from mosld.common.process import is_main
from mosld.config.identity import identity
from mosld.config.schema import Config, MethodConfig
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory, run_name
from mosld.runs.results import git_hash

# The predictions of each task, as written to predictions/<task>.jsonl.
Predictions = dict[str, list[JsonObject]]


class Tracker(Protocol):
    """What a run reports while it trains and when it ends."""

    def step(self, values: JsonObject) -> None:
        """Record a line of metrics.jsonl."""

    def finish(self, results: JsonObject, predictions: Predictions | None) -> None:
        """Record the content of results.json, and the predictions of a finished run."""


class NoTracker:
    """`logger=files`: the run directory is all."""

    def step(self, values: JsonObject) -> None:
        """Do nothing."""

    def finish(self, results: JsonObject, predictions: Predictions | None) -> None:
        """Do nothing."""


def make_tracker(config: Config, run: RunDirectory, overrides: list[str], console: Console) -> Tracker:
    """The tracker that `config.logger` names; only the main process has one.

    Raises:
        UserError: the server cannot be reached.
    """
    if config.logger.name != "wandb" or os.environ.get("WANDB_MODE") == "disabled" or not is_main():
        return NoTracker()
    # Importing wandb takes a second.
    from mosld.tracking.wandb import WandbTracker

    facts = {
        **dataclasses.asdict(config),
        "overrides": overrides,
        "run_name": run_name(config, run.path),
        "config_hash": identity(config),
        "git_hash": git_hash(),
    }
    data, model = config.data.name, config.model.name
    title = run_title(config.method, data, model, config.seed)
    return WandbTracker(config.logger, run, console, title, config.logger.group or f"{data}-{model}", facts)


def run_title(method: MethodConfig, data: str, model: str, seed: int) -> str:
    """``<method>-<data>-<model>-r<rank>-d<dropout>-s<seed>``, as far as the method has them.

    Runs that differ in other keys share it; the W&B config next to it has every key and the run's hash.
    """
    size = {"full": [], "prefix": [f"n{method.virtual_tokens}"]}.get(method.kind, [f"r{method.rank}"])
    dropout = [f"d{method.dropout:g}"] if method.kind in ("lora", "mixture") else []
    return "-".join([method.name, data, model, *size, *dropout, f"s{seed}"])
