"""What a run trained, found by `mosld.eval`, chat, export and inspect: a run, adapter or model directory."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mosld.common.errors import UserError
from mosld.common.files import MANIFEST, JsonObject, damage
from mosld.common.reading import load_yaml, require_shape
from mosld.config.rerun import rerun_config
from mosld.config.schema import Config
from mosld.data.leaks import Record


@dataclass(frozen=True)
class SavedRun:
    """What a run trained, and the config it was trained with.

    Attributes:
        path: the directory that the user named.
        weights: the directory of the adapter (PEFT's format) or of the whole model (transformers' format).
        whole: whether `weights` is a whole model.
        recorded: the tree of its config.yaml, with evaluation.base off.
    """

    path: Path
    weights: Path
    whole: bool
    recorded: JsonObject

    def output(self, name: str) -> Path:
        """The directory `name` below the run; below ./outputs where the run is somebody else's, and only read."""
        inside = self.path / name
        writable = os.access(inside if inside.exists() else self.path, os.W_OK | os.X_OK)
        return inside if writable else Path("outputs") / name / self.path.resolve().name

    def record(self) -> Record | None:
        """Which rows the run was trained on; None where that was not recorded."""
        folders = (self.path, self.weights.parent)
        return next((record for folder in folders if (record := Record.read(folder / "rows.json"))), None)

    def config(self, overrides: Sequence[str] = (), **model: str) -> Config:
        """The checked config of the run with overrides, and keys of the model group replaced (path, dtype).

        Raises:
            UserError: with one message per mistake.
        """
        replaced = {**(self.recorded.get("model") or {}), **model}
        return rerun_config({**self.recorded, "model": replaced}, overrides)


def saved_run(directory: str) -> SavedRun:
    """Find the trained weights and the config in a run, adapter or model directory.

    Raises:
        UserError: nothing there can be used, and why.
    """
    path = Path(directory)
    if not path.is_dir():
        raise UserError(f"run={directory}: no such directory.")
    weights = find_weights(path)
    if weights is None:
        reason = "no run there"
        if (path / "config.yaml").is_file():
            reason = "the run is not finished; type its train command again to finish it"
        raise UserError(f"run={directory}: {reason} (looked for adapter/adapter_config.json and model/config.json).")
    config = next((file for file in (path / "config.yaml", weights / "config.yaml") if file.is_file()), None)
    if config is None:
        raise UserError(
            f"run={directory}: no config.yaml next to the weights, so their base model and prompt are unknown; "
            "mosld writes one."
        )
    faults = list(damage(weights)) if (weights / MANIFEST).is_file() else []
    if faults:
        raise UserError(*(f"{weights} is damaged: {fault}." for fault in faults))
    recorded = load_yaml(config)
    groups = {
        group: {**require_shape(recorded.get(group) or {}, JsonObject, f"{config}: {group}")}
        for group in ("data", "evaluation", "model")
    }
    groups["evaluation"]["base"] = False
    recorded |= groups
    return SavedRun(path, weights, not (weights / "adapter_config.json").is_file(), recorded)


def find_weights(path: Path) -> Path | None:
    """The first directory that holds an adapter or a model: the named one, or one of a run's two."""
    marks = [
        (path, "adapter_config.json"),
        (path, "config.json"),
        (path / "adapter", "adapter_config.json"),
        (path / "model", "config.json"),
    ]
    return next((folder for folder, mark in marks if (folder / mark).is_file()), None)
