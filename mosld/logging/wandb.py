"""Weights & Biases: online where a key is configured, else offline into the run directory.

The dashboard shows train/* over train/step, validation/* and test/* per task, and a table of predictions. No secret
and no question text is sent: the config holds none of them, and the environment is not recorded.
"""

import dataclasses
import netrc
import os
import secrets
from typing import Any
from urllib.parse import urlparse

import wandb

from mosld.config import Config, UserError
from mosld.evaluation import Evaluation
from mosld.logging.atomic import write_text
from mosld.logging.console import Console
from mosld.logging.results import git_hash
from mosld.logging.run_directory import RunDirectory, run_name

TABLE_ROWS = 200  # predictions per task in the table; all of them stand in predictions/<task>.jsonl


class WandbTracker:
    """One W&B run for one run directory; a resumed run goes on in the same one."""

    def __init__(self, config: Config, run: RunDirectory, overrides: list[str], console: Console) -> None:
        """Start the W&B run.

        Raises:
            UserError: the server cannot be reached.
        """
        self._console, self._directory = console, run
        self._offline = resolve_mode(config.logger.mode) == "offline"
        name = run_name(config, run.path)
        try:
            self._run = wandb.init(
                project=config.logger.project,
                entity=config.logger.entity,
                group=config.logger.group or f"{config.data.name}-{config.model.name}",
                job_type="train",
                name=name,
                id=_run_id(run),
                resume=None if self._offline else "allow",
                mode="offline" if self._offline else "online",
                dir=str(run.path),
                config={**dataclasses.asdict(config), "overrides": overrides, "git_hash": git_hash()},
                settings=wandb.Settings(
                    console="off", silent=True, disable_git=True, save_code=False, x_disable_machine_info=True
                ),
            )
        except (wandb.errors.CommError, wandb.errors.UsageError) as error:
            raise UserError(
                f"logger=wandb: the run cannot be started ({error}); use logger.mode=offline or logger=files."
            ) from error
        self._run.define_metric("train/step")
        self._run.define_metric("train/tokens")
        for metrics in ("train/*", "validation/*"):
            self._run.define_metric(metrics, step_metric="train/step")

    def step(self, values: dict[str, Any]) -> None:
        """A line of metrics.jsonl: training or validation."""
        if "validation_accuracy" in values:
            scores = {f"validation/{task}": score for task, score in values["validation_accuracy"].items()}
            self._run.log({"train/step": values["step"], "validation/average": values["validation_average"], **scores})
            return
        load = values.get("expert_load", {}).values()  # a checkpoint's line has none
        shares = {
            "train/busiest_expert_share": max(map(max, load)),
            "train/idlest_expert_share": min(map(min, load)),
        } if load else {}  # fmt: skip
        dropped = values.get("dropped", {}).values()  # where experts have limited room
        if dropped:
            shares["train/dropped_share"] = sum(dropped) / len(dropped)
        numbers = {f"train/{key}": value for key, value in values.items() if isinstance(value, int | float)}
        self._run.log({**numbers, **shares})

    def finish(self, results: dict[str, Any], evaluation: Evaluation | None) -> None:
        """Scores as the run's summary, predictions as a table; then how to send an offline run."""
        summary = self._run.summary
        for key in ("status", "average", "base_average", "parameters", "tokens_per_second", "peak_memory_bytes"):
            if key in results:
                summary[key] = results[key]
        for kind, prefix in (("scores", "test"), ("base_scores", "untrained")):
            for task, score in results.get(kind, {}).items():
                summary[f"{prefix}/{task}/accuracy"] = score["accuracy"]
                summary[f"{prefix}/{task}/stderr"] = score["stderr"]
        if evaluation is not None:
            columns: list[str | int] = ["task", "id", "prediction", "correct", "scores"]
            rows = [
                [task, p.id, str(p.prediction), p.correct, str(p.as_json().get("scores", ""))]
                for task, found in evaluation.predictions.items()
                for p in found[:TABLE_ROWS]
            ]
            self._run.log({"predictions": wandb.Table(columns=columns, data=rows)})
        self._run.finish(exit_code=0 if results["status"] == "finished" else 1)
        wandb.teardown()  # an offline `finish` returns before its file is written; this waits
        if self._offline:
            self._console.say(
                f"W&B run kept offline; send it with: wandb sync {self._directory.path}/wandb/offline-run-*"
            )


def _run_id(run: RunDirectory) -> str:
    """The id under which W&B knows this directory: made once, so that a resumed run goes on in the same W&B run."""
    kept = run.path / "wandb_id"
    if not kept.is_file():
        write_text(kept, secrets.token_hex(4))
    return kept.read_text()


def resolve_mode(mode: str) -> str:
    """auto is online where a key is configured (environment or netrc), else offline."""
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_MODE") in ("online", "offline"):
        return os.environ["WANDB_MODE"]
    return "online" if _key_is_configured() else "offline"


def _key_is_configured() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
