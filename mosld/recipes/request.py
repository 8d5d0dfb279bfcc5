"""What a training command asks for, checked before anything heavy is imported: config, launcher, rows, directory."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mosld.common.errors import UserError
from mosld.common.network import hub_outage, is_cached
from mosld.common.process import is_distributed, is_main
from mosld.config.compose import load_config
from mosld.config.identity import run_directory
from mosld.config.schema import Config, ModelConfig
from mosld.data.dataset import Dataset, load_dataset
from mosld.distributed.launch import require_launch
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.starting_weights import starting_weights
from mosld.runs.tables import results_table
from mosld.tracking.hub import require_token


@dataclass(frozen=True)
class TrainRequest:
    """One run to train.

    Attributes:
        config: the checked config.
        dataset: the rows.
        run: the run directory.
        overrides: what was typed.
    """

    config: Config
    dataset: Dataset
    run: RunDirectory
    overrides: list[str]

    @property
    def command(self) -> str:
        """What starts this run."""
        return shlex.join(["python", "-m", "mosld.train", *self.overrides])

    @property
    def resume_command(self) -> str:
        """What resumes this run: the same, unless that starts it anew."""
        return self.command.replace(" training.resume=never", "")

    def show_finished(self) -> bool:
        """Print the table of the run if it is finished, without importing torch; returns whether it is.

        Several processes must agree, so there `train_run` shows it.

        Raises:
            UserError: the directory holds another run, or another process works on it.
        """
        if is_distributed() or self.config.check or self.config.training.resume != "auto" or not self.run.finished():
            return False
        with self.locked():
            results = self.run.finished()
        if results:
            show_results(self, results)
        return results is not None

    @contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Hold the run directory, opened for this config and these rows; the main process does it for all."""
        if not is_main():
            yield
            return
        with self.run.locked(wait):
            self.run.open(self.config, self.dataset.describe(), Console().say)
            yield


def show_results(request: TrainRequest, results: dict) -> None:
    """Print the table of a finished run."""
    console = Console()
    console.say("this run is finished; training.resume=never starts it again from step 0")
    console.show(results_table(results))
    if request.config.evaluation.base and "base_scores" not in results:
        command = f"python -m mosld.eval run={request.run.path} evaluation.base=true"
        console.say("to score the untrained model too", command)


def check_request(overrides: list[str]) -> TrainRequest:
    """Check everything that can be checked without a model.

    Args:
        overrides: Hydra overrides of conf/config.yaml.

    Raises:
        UserError: with one message for each mistake in config, launcher or data.
    """
    config = load_config(overrides)
    run = RunDirectory(run_directory(config))
    weights = starting_weights(config)
    if weights and weights.is_relative_to(run.path.resolve()):
        raise UserError(f"init_from={config.init_from}: lies in the directory of this run; choose another output_dir.")
    require_launch(config)
    with Console().working("reading the rows"):
        dataset = load_dataset(config.data, config.source)
    _require_model(config.model)
    require_token(config.hub)
    if config.training.patience and not any(task.validation for task in dataset.tasks.values()):
        raise UserError(
            f"training.patience={config.training.patience}: {', '.join(dataset.tasks)} has no validation rows; set it "
            "to null, or add a validation file."
        )
    return TrainRequest(config, dataset, run, overrides)


def _require_model(model: ModelConfig) -> None:
    """Refuse a model that is neither cached nor reachable, before torch is imported.

    Raises:
        UserError: the hub does not answer.
    """
    if model.kind != "hub" or model.path or not model.hub or is_cached(model.hub, model.revision):
        return
    if outage := hub_outage():
        raise UserError(
            f"model={model.name}: {model.hub} (revision {model.revision}) cannot be fetched: {outage}; or give a local "
            "checkpoint with model.path=DIR."
        )
