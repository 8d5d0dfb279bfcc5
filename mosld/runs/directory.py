"""The directory of one run: where each file lies, and whether the run is new, half done or finished."""

import dataclasses
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mosld.common.errors import UserError
from mosld.common.files import write_json, write_lines, write_text
from mosld.config.identity import identity, results_keys
from mosld.config.schema import Config

# PART: The plain tree of a recorded config.


def read_config_tree(path: Path) -> dict[str, Any]:
    """The plain tree of a config.yaml.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: is no config")
    return tree


def lookup(tree: dict[str, Any], key: str) -> Any:
    """The value of a dotted key; None where it is not there."""
    node: Any = tree
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


# PART: The directory of one run: where each file lies, and whether the run is new, half done or finished.


OURS = (
    "results.json", "metrics.jsonl", "train.log", "base_scores.json", "wandb_id", "routing.json", "checkpoints",
    "adapter", "model", "experts", "predictions", "figures", "eval", "inspect", "wandb", "config.yaml", "data.json",
)  # fmt: skip


class RunDirectory:
    """The files of one run, by name.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        """Name a directory; nothing is made or read."""
        self.path = path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        """Everything that resuming needs."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The best adapter, in PEFT's format."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The whole model, in transformers' format, where all its weights were trained."""
        return self.path / "model"

    @property
    def routing(self) -> Path:
        """routing.json: which experts each task used."""
        return self.path / "routing.json"

    def expert(self, task: str) -> "RunDirectory":
        """The directory of one task's own LoRA, stage 1 of a mixture of domains."""
        return RunDirectory(self.path / "experts" / task)

    @property
    def results(self) -> Path:
        """results.json, written last."""
        return self.path / "results.json"

    @property
    def base_scores(self) -> Path:
        """Scores of the untrained model, kept so that a resumed run does not compute them again."""
        return self.path / "base_scores.json"

    def finished(self) -> dict[str, Any] | None:
        """The results of a finished run, else None."""
        try:
            results = json.loads(self.results.read_text())
        except (OSError, ValueError):
            return None
        return results if results.get("status") == "finished" else None

    def open(self, config: Config, data: dict[str, Any], say: Callable[[str], None]) -> None:
        """Begin a run in the directory, or take up the one that is there, as `training.resume` says.

        Args:
            config: the run's config.
            data: what identifies the run's rows: fingerprint, counts, notes.
            say: told of what differs from before, where it goes on in spite of that.

        Raises:
            UserError: the directory holds a run of another config or other rows.
        """
        if self._held() and config.training.resume == "never":
            self._clear()
        elif self._held():
            self._compare(config, data, say)
        if not self.finished():
            write_json(self.path / "data.json", data)
            write_text(self.config, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
            self.results.unlink(missing_ok=True)  # how the last start ended says nothing of this one
            for stale in self.path.glob(".*.tmp"):
                stale.unlink()

    @contextmanager
    def locked(self, waits: bool = False) -> Iterator[None]:
        """Make the directory and keep other commands out of it; the system lets go when the process ends, in any way.

        Args:
            waits: wait for another process that works in the directory, as two sweeps that share a run do.

        Raises:
            UserError: another process works in the directory, or it cannot be a run's.
        """
        if not self._held() and self.path.is_dir() and self._foreign_files():
            raise UserError(f"{self.path}: is not empty and holds no run; choose another output_dir.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be made a run directory: {error.strerror}.") from error
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise UserError(f"{self.path}: another process works on this run; wait for it or stop it.") from error
            except OSError:
                pass  # some shared file systems have no locks
            yield

    def write_predictions(self, predictions: dict[str, list[dict[str, Any]]], subfolder: str = "") -> None:
        """One file a task: id, prediction, correct, scores; no question text."""
        folder = self.path / "predictions" / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        for task, records in predictions.items():
            write_lines(folder / f"{task}.jsonl", records)

    def _held(self) -> bool:
        """Whether a run has begun here."""
        return self.config.is_file() and (self.path / "data.json").is_file()

    def _foreign_files(self) -> bool:
        """Whether the directory holds more than the start of a run that was killed at once."""
        return any(not path.name.startswith(".") and path.name != "data.json" for path in self.path.iterdir())

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else; config.yaml and data.json, which mark it as a run, go last."""
        for name in OURS:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def differences(self, config: Config, data: dict[str, Any]) -> list[str]:
        """What differs between the run that is here and one of this config and these rows, a line each.

        Raises:
            UserError: what the run began with cannot be read, and `training.resume` is not `force`.
        """
        before, recorded = self._recorded(config.training.resume == "force")
        ours = results_keys(config)
        differing = [
            f"{key}: was {lookup(before, key)}, is {value}"
            for key, value in ours.items()
            if lookup(before, key) != value
        ]
        if recorded.get("fingerprint") != data["fingerprint"]:
            differing.append(
                f"data: the rows changed (fingerprint was {recorded.get('fingerprint')}, is {data['fingerprint']}; "
                f"counts were {recorded.get('counts')}, are {data['counts']})"
            )
        return differing

    def _compare(self, config: Config, data: dict[str, Any], say: Callable[[str], None]) -> None:
        differing = self.differences(config, data)
        if differing and config.training.resume != "force":
            raise UserError(
                f"{self.path} holds another run; give another output_dir, start it anew with training.resume=never, or "
                "go on in spite of the difference with training.resume=force.",
                *differing,
            )
        if differing:
            say(f"going on in spite of what differs (training.resume=force): {'; '.join(differing)}")
            for path in (self.results, self.base_scores):  # reached with the former config and rows
                path.unlink(missing_ok=True)

    def _recorded(self, force: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """The config and the description of the rows that the run began with; a damaged file stops all but `force`."""
        try:
            config, data = read_config_tree(self.config), json.loads((self.path / "data.json").read_text())
        except (UserError, ValueError) as error:
            if force:
                return {}, {}
            how = "training.resume=force goes on in spite of it, training.resume=never starts anew."
            raise UserError(f"{self.path}: config.yaml or data.json is damaged; {how}") from error
        return config, data


def run_name(config: Config, path: Path) -> str:
    """The name in tables and dashboards: the directory's own, which ends in the hash of what affects results."""
    return path.name if not config.output_dir else f"{path.name}-{identity(config)}"
