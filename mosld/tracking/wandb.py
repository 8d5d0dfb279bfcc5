"""Weights & Biases: online if an API key is configured, else offline into the run directory.

The dashboard shows train/* over train/step and by_tokens/* over train/tokens, validation/* (accuracy) and
validation_loss/*, test/* per task, tables of scores and predictions, and the run's figures. No secret and no question
text is sent: the config holds none of them, and the environment is not recorded.
"""

import netrc
import os
import secrets
from pathlib import Path
from urllib.parse import urlparse

import wandb

from mosld.common.errors import UserError
from mosld.common.files import JsonObject, write_text
from mosld.config.schema import LoggerConfig
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.loss_curve import read_lines
from mosld.tracking.tracker import Predictions
from mosld.tracking.wandb_results import send_adapter, send_figures, send_tables, write_summary

METRICS_BY_TOKENS = ("cross_entropy", "balance_loss", "router_loss")


class WandbTracker:
    """One W&B run for one run directory; a resumed run continues the same one."""

    def __init__(
        self, logger: LoggerConfig, run: RunDirectory, console: Console, title: str, group: str, facts: JsonObject
    ) -> None:
        """Start the W&B run.

        Args:
            logger: mode, project, entity, job type, artifact.
            run: the run's directory, in which W&B's files lie.
            console: for the command that sends an offline run.
            title: the run's name on the dashboard.
            group: the run's group on the dashboard.
            facts: the W&B config: every key of the run's config, its name, hash and commit.

        Raises:
            UserError: the server cannot be reached.
        """
        self._console = console
        self._directory = run
        self._logger = logger
        self._offline = resolve_mode(logger.mode) == "offline"
        try:
            self._run = wandb.init(
                project=logger.project,
                entity=logger.entity,
                group=group,
                job_type=logger.job_type,
                name=title,
                id=_run_id(run),
                resume=None if self._offline else "allow",
                mode="offline" if self._offline else "online",
                dir=str(run.path),
                config=facts,
                settings=wandb.Settings(
                    console="off", silent=True, disable_git=True, save_code=False, x_disable_machine_info=True
                ),
            )
        except (wandb.errors.CommError, wandb.errors.UsageError) as error:
            raise UserError(
                f"logger=wandb: the run cannot be started ({error}); use logger.mode=offline or logger=files."
            ) from error
        # The server has the steps sent before; an offline file starts empty and must hold all of them.
        self._last_sent_step = int(self._run.summary.get("train/step") or 0) if self._run.resumed else 0
        self._replayed = not self._offline
        _define_metrics(self._run)

    def step(self, values: JsonObject) -> None:
        """Record a line of metrics.jsonl: training, validation or checkpoint."""
        if not self._replayed:
            self._replay()
        elif values["step"] > self._last_sent_step:
            self._log(values)

    def finish(self, results: JsonObject, predictions: Predictions | None) -> None:
        """Send summary, tables, figures and, if asked for, the adapter; say how to send an offline run."""
        if not self._replayed:
            # Nothing was left to train.
            self._replay()
        write_summary(self._run, results)
        send_figures(self._run, self._directory)
        if predictions is not None:
            send_tables(self._run, results, predictions)
        if self._logger.artifact and results["status"] == "finished":
            send_adapter(self._run, self._directory, results)
        if results["status"] == "diverged":
            self._run.alert(f"{self._run.name} diverged", results["error"], level="ERROR")
        files = Path(self._run.dir).parent
        self._run.finish(exit_code=0 if results["status"] == "finished" else 1)
        # An offline `finish` returns before its file is written; this waits for it.
        wandb.teardown()
        if self._offline:
            self._console.say("W&B run kept offline; send it with", f"wandb sync {files}")

    def _replay(self) -> None:
        """Log all lines of metrics.jsonl: those of earlier starts, and the one just written."""
        self._replayed = True
        for line in read_lines(self._directory.metrics):
            self._log(line)

    def _log(self, values: JsonObject) -> None:
        if "validation_accuracy" in values:
            scores = {f"validation/{task}": score for task, score in values["validation_accuracy"].items()}
            if values["validation_average"] is not None:
                scores["validation/average"] = values["validation_average"]
            # Lines of older runs have no loss.
            losses = {**values.get("validation_loss", {}), **_averages(values)}
            scores |= {f"validation_loss/{name}": loss for name, loss in losses.items()}
            self._run.log({"train/step": values["step"], **scores})
            return
        numbers = {f"train/{key}": value for key, value in values.items() if isinstance(value, int | float)}
        by_tokens = {f"by_tokens/{key}": values[key] for key in METRICS_BY_TOKENS if values.get(key) is not None}
        self._run.log({**numbers, **_expert_shares(values), **by_tokens})


def _averages(values: JsonObject) -> dict[str, float]:
    """The average loss of a validation and its perplexity, where they are known and finite."""
    keys = {"average": "validation_loss_average", "perplexity": "validation_perplexity"}
    return {name: values[key] for name, key in keys.items() if values.get(key) is not None}


def _expert_shares(values: JsonObject) -> dict[str, float]:
    """The largest and smallest load of an expert and the mean share of dropped tokens, where the line has them."""
    shares = {}
    load = values.get("expert_load", {}).values()
    if load and all(None not in experts for experts in load):
        shares["train/busiest_expert_share"] = max(map(max, load))
        shares["train/idlest_expert_share"] = min(map(min, load))
    dropped = values.get("dropped", {}).values()
    if dropped:
        shares["train/dropped_share"] = sum(dropped) / len(dropped)
    return shares


def _define_metrics(run: wandb.Run) -> None:
    """Set the x axis of each curve: steps, and tokens, which runs with other batch sizes share."""
    run.define_metric("train/step")
    run.define_metric("train/tokens", step_metric="train/step")
    run.define_metric("train/*", step_metric="train/step")
    run.define_metric("by_tokens/*", step_metric="train/tokens")
    run.define_metric("validation/*", step_metric="train/step", summary="max")
    run.define_metric("validation_loss/*", step_metric="train/step", summary="min")


def _run_id(run: RunDirectory) -> str:
    """The W&B id of this directory, created once, so that a resumed run continues the same W&B run."""
    path = run.path / "wandb_id"
    if not path.is_file():
        write_text(path, secrets.token_hex(4))
    return path.read_text()


def resolve_mode(mode: str) -> str:
    """Resolve auto: online if an API key is configured (environment or netrc), else offline."""
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_MODE") in ("online", "offline"):
        return os.environ["WANDB_MODE"]
    return "online" if has_api_key() else "offline"


def has_api_key() -> bool:
    """Whether an API key for the server is in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
