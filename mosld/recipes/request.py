"""What a training command asks for, checked before anything heavy is imported: config, launcher, rows, directory."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mosld.common.errors import UserError
from mosld.common.files import JsonObject
from mosld.common.process import is_distributed, is_main
from mosld.common.reading import load_yaml, require_shape
from mosld.config.compose import checked_config, load_config, override_mistakes, parse_override, repeated_keys
from mosld.config.identity import run_directory, uses_allocation
from mosld.config.rerun import rerun_config, with_compared
from mosld.config.revisions import require_hub_model
from mosld.config.schema import Config
from mosld.data.dataset import Dataset, load_dataset
from mosld.distributed.launch import require_launch
from mosld.runs.console import Console
from mosld.runs.directory import LENGTH_KEYS, RunDirectory
from mosld.runs.saved import SavedRun, saved_run
from mosld.runs.starting_weights import starting_weights
from mosld.runs.tables import results_table
from mosld.tracking.hub import require_token


@dataclass(frozen=True)
class TrainRequest:
    """One run to train.

    Attributes:
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

    Raises:
        UserError: with one message for each mistake in config, launcher or data.
    """
    config = _lengthened(overrides) or load_config(overrides)
    _check_ignored_groups(config, overrides)
    run = RunDirectory(run_directory(config))
    weights = starting_weights(config)
    if weights and weights.is_relative_to(run.path.resolve()):
        raise UserError(f"init_from={config.init_from}: lies in the directory of this run; choose another output_dir.")
    require_launch(config)
    with Console().working("reading the rows"):
        dataset = load_dataset(config.data, config.source)
    require_hub_model(config.model)
    require_token(config.hub)
    if config.training.patience and not any(task.validation for task in dataset.tasks.values()):
        raise UserError(
            f"training.patience={config.training.patience}: {', '.join(dataset.tasks)} has no validation rows; set it "
            "to null, or add a validation file."
        )
    return TrainRequest(config, dataset, run, overrides)


def _check_ignored_groups(config: Config, overrides: list[str]) -> None:
    """Refuse a launcher, which starts the jobs of a sweep; say that an allocation has no effect.

    A sweep may hold an allocation beside methods without experts.
    """
    for text in overrides:
        if text.startswith("launcher=") and text != "launcher=local":
            raise UserError(f"{text}: has no effect on a single run; add -m for a sweep, or leave it out.")
        if text.startswith("allocation") and not uses_allocation(config.method):
            Console().say(f"{text}: has no effect; method={config.method.name} has no experts to allocate")


def _lengthened(overrides: list[str]) -> Config | None:
    """The config of the run in `output_dir` with more steps, where nothing else was typed; else None."""
    keys = [text.partition("=")[0] for text in overrides]
    if "output_dir" not in keys or len(keys) < 2 or not {*keys} <= {"output_dir", *LENGTH_KEYS}:
        return None
    if repeated_keys(overrides) or any(override_mistakes(text, []) for text in overrides):
        return None
    values = {key: parse_override(text).value() for key, text in zip(keys, overrides, strict=True)}
    run = RunDirectory(Path(str(values.pop("output_dir"))))
    if not run.exists():
        return None
    tree = load_yaml(run.config)
    lengths = {key.rpartition(".")[2]: value for key, value in values.items()}
    training = require_shape(tree.get("training") or {}, JsonObject, f"{run.config}: training")
    return checked_config({**tree, "training": {**training, **lengths}, "output_dir": str(run.path)}, [])


@dataclass(frozen=True)
class EvaluationRequest:
    """One run to score.

    Attributes:
        config: the run's checked config with the overrides.
        overrides: what was typed.
        compared: a config with which to score once more; None: once only.
    """

    config: Config
    dataset: Dataset
    run: SavedRun
    overrides: list[str]
    compared: Config | None = None


def check_evaluation(directory: str, overrides: list[str], compare: str | None = None) -> EvaluationRequest:
    """Check everything about an evaluation that can be checked without a model.

    Args:
        compare: one more override, for a second scoring.

    Raises:
        UserError: with one message for each mistake.
    """
    run = saved_run(directory)
    config = rerun_config(run.recorded, overrides)
    require_launch(config)
    compared = rerun_config(run.recorded, with_compared(overrides, compare)) if compare else None
    record = run.record()
    dataset = load_dataset(config.data, config.source, training=False, shots=config.evaluation.shots, record=record)
    if record is None:
        dataset.notes.append(f"{run.path} has no record of the rows that it was trained on: leaks are not counted")
    return EvaluationRequest(config, dataset, run, overrides, compared)
