"""Weights & Biases: online where a key is configured, else offline into the run directory.

The dashboard shows train/* over train/step and by_tokens/* over train/tokens, validation/* and test/* per task, tables
of scores and predictions, and the run's figures. No secret and no question text is sent: the config holds none of them,
and the environment is not recorded.
"""

import dataclasses
import json
import netrc
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb

from mosld.common.errors import UserError
from mosld.common.files import write_text
from mosld.config.identity import identity
from mosld.config.schema import Config
from mosld.evaluation.evaluate import Evaluation
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory, run_name
from mosld.runs.results import git_hash
from mosld.tracking.wandb_results import send_adapter, send_figures, send_tables, write_summary

# PART: The name of a run on a dashboard: what a person chose, in words.


def run_title(config: Config) -> str:
    """``<method>-<data>-<model>-r<rank>-d<dropout>-s<seed>``, as far as the method has them.

    Runs that differ in other keys share it; the W&B config beside it has every key and the run's hash.
    """
    method = config.method
    size = {"full": [], "prefix": [f"n{method.virtual_tokens}"]}.get(method.kind, [f"r{method.rank}"])
    dropped = [f"d{method.dropout:g}"] if method.kind in ("lora", "mixture") else []
    return "-".join([method.name, config.data.name, config.model.name, *size, *dropped, f"s{config.seed}"])


# PART: Weights & Biases: online where a key is configured, else offline into the run directory. The dashboard shows
# train/* over train/step and by_tokens/* over train/tokens, validation/* and test/* per task, tables of scores and
# predictions, and the run's figures. No secret and no question text is sent: the config holds none of them, and the
# environment is not recorded.


BY_TOKENS = ("cross_entropy", "balance_loss", "router_loss")


class WandbTracker:
    """One W&B run for one run directory; a resumed run goes on in the same one."""

    def __init__(self, config: Config, run: RunDirectory, overrides: list[str], console: Console) -> None:
        """Start the W&B run.

        Raises:
            UserError: the server cannot be reached.
        """
        self._console, self._directory, self._logger = console, run, config.logger
        self._offline = resolve_mode(config.logger.mode) == "offline"
        try:
            self._run = wandb.init(
                project=config.logger.project,
                entity=config.logger.entity,
                group=config.logger.group or f"{config.data.name}-{config.model.name}",
                job_type=config.logger.job_type,
                name=run_title(config),
                id=_run_id(run),
                resume=None if self._offline else "allow",
                mode="offline" if self._offline else "online",
                dir=str(run.path),
                config={
                    **dataclasses.asdict(config),
                    "overrides": overrides,
                    "run_name": run_name(config, run.path),
                    "config_hash": identity(config),
                    "git_hash": git_hash(),
                },
                settings=wandb.Settings(
                    console="off", silent=True, disable_git=True, save_code=False, x_disable_machine_info=True
                ),
            )
        except (wandb.errors.CommError, wandb.errors.UsageError) as error:
            raise UserError(
                f"logger=wandb: the run cannot be started ({error}); use logger.mode=offline or logger=files."
            ) from error
        # The server has what it was sent before; an offline file begins anew, and must hold everything by itself.
        self._sent = int(self._run.summary.get("train/step") or 0) if self._run.resumed else 0
        self._replayed = not self._offline
        _define_metrics(self._run)

    def step(self, values: dict[str, Any]) -> None:
        """A line of metrics.jsonl: training, validation or checkpoint."""
        if not self._replayed:
            self._replay()
        elif values["step"] > self._sent:
            self._log(values)

    def _replay(self) -> None:
        """All lines so far, the one just written too: those before it are of earlier starts."""
        self._replayed = True
        for line in _lines(self._directory.metrics):
            self._log(line)

    def _log(self, values: dict[str, Any]) -> None:
        if "validation_accuracy" in values:
            scores = {f"validation/{task}": score for task, score in values["validation_accuracy"].items()}
            if values["validation_average"] is not None:  # something is scored
                scores["validation/average"] = values["validation_average"]
            self._run.log({"train/step": values["step"], **scores})
            return
        load = values.get("expert_load", {}).values()  # a checkpoint's line has none
        shares = {
            "train/busiest_expert_share": max(map(max, load)),
            "train/idlest_expert_share": min(map(min, load)),
        } if load and all(None not in shares for shares in load) else {}  # fmt: skip
        dropped = values.get("dropped", {}).values()  # where experts have limited room
        if dropped:
            shares["train/dropped_share"] = sum(dropped) / len(dropped)
        numbers = {f"train/{key}": value for key, value in values.items() if isinstance(value, int | float)}
        by_tokens = {f"by_tokens/{key}": values[key] for key in BY_TOKENS if values.get(key) is not None}
        self._run.log({**numbers, **shares, **by_tokens})

    def finish(self, results: dict[str, Any], evaluation: Evaluation | None) -> None:
        """Summary, tables, figures, and the adapter where asked for; then how to send an offline run."""
        if not self._replayed:  # nothing was left to train
            self._replay()
        write_summary(self._run, results)
        send_figures(self._run, list(_lines(self._directory.metrics)), self._directory)
        if evaluation is not None:
            send_tables(self._run, results, evaluation)
        if self._logger.artifact and results["status"] == "finished":
            send_adapter(self._run, self._directory, results)
        if results["status"] == "diverged":
            self._run.alert(f"{self._run.name} diverged", results["error"], level="ERROR")
        files = Path(self._run.dir).parent
        self._run.finish(exit_code=0 if results["status"] == "finished" else 1)
        wandb.teardown()  # an offline `finish` returns before its file is written; this waits
        if self._offline:
            self._console.say(f"W&B run kept offline; send it with: wandb sync {files}")


def _define_metrics(run: Any) -> None:
    """What each curve is drawn over: steps, and tokens, which runs of other batch sizes share."""
    run.define_metric("train/step")
    run.define_metric("train/tokens", step_metric="train/step")
    run.define_metric("train/*", step_metric="train/step")
    run.define_metric("by_tokens/*", step_metric="train/tokens")
    run.define_metric("validation/*", step_metric="train/step", summary="max")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl; none where there is no such file yet."""
    if path.is_file():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _run_id(run: RunDirectory) -> str:
    """The id under which W&B knows this directory: made once, so that a resumed run goes on in the same W&B run."""
    kept = run.path / "wandb_id"
    if not kept.is_file():
        write_text(kept, secrets.token_hex(4))
    return kept.read_text()


def resolve_mode(mode: str) -> str:
    """Auto is online where a key is configured (environment or netrc), else offline."""
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_MODE") in ("online", "offline"):
        return os.environ["WANDB_MODE"]
    return "online" if key_is_configured() else "offline"


def key_is_configured() -> bool:
    """Whether there is a key for the server, in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
