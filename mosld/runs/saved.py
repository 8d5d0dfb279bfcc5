"""What a run trained, found by `mosld.eval`, chat, export and inspect: a run, adapter or model directory."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mosld.common.errors import UserError
from mosld.common.files import MANIFEST, JsonObject, file_state
from mosld.common.process import is_main
from mosld.common.reading import load_yaml, require_shape
from mosld.common.seal import Seal, seal_of
from mosld.config.rerun import rerun_config
from mosld.config.schema import Config
from mosld.data.leaks import Record
from mosld.runs.directory import UNSEALED, RunDirectory

STILL_WORKS = (
    "What is whole still works: results.json and the predictions for mosld.report, the checkpoints for the same train "
    "command, which makes the adapter again; python -m mosld.verify {root} lists all. After an edit of your own: "
    "python -m mosld.verify {root} --accept FILE."
)


@dataclass(frozen=True)
class SavedRun:
    """What a run trained, and the config it was trained with.

    Attributes:
        path: the directory that the user named.
        weights: the directory of the adapter (PEFT's format) or of the whole model (transformers' format).
        whole: whether `weights` is a whole model.
        recorded: the tree of its config.yaml, with evaluation.base off.
        best: of a damaged adapter, the checkpoint from which it can be made again.
    """

    path: Path
    weights: Path
    whole: bool
    recorded: JsonObject
    best: Path | None = None

    @property
    def root(self) -> Path:
        """The run directory, also if the adapter's was named."""
        return self.seal.root

    @property
    def seal(self) -> Seal:
        return seal_of(self.path)

    def output(self, name: str) -> Path:
        """The directory `name` below the run; below ./outputs where the run is somebody else's, and only read."""
        inside = self.path / name
        writable = os.access(inside if inside.exists() else self.path, os.W_OK | os.X_OK)
        return inside if writable else Path("outputs") / name / self.path.resolve().name

    def record(self) -> Record | None:
        """Which rows the run was trained on; None where that was not recorded."""
        if faults := self.seal.faults("rows.json"):
            _say(f"{self.root}/{faults[0]}: which rows the run was trained on is not known")
            return None
        folders = (self.path, self.weights.parent)
        return next((record for folder in folders if (record := Record.read(folder / "rows.json"))), None)

    def config(self, overrides: Sequence[str] = (), **model: str | bool) -> Config:
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
    seal = seal_of(path)
    root = seal.root
    if problem := seal.problem():
        raise UserError(
            f"{root}/{problem}: nothing else there can be checked. If you know that the rest is whole, python -m "
            f"mosld.verify {root} --accept {MANIFEST} seals the run as it is."
        )
    weights = find_weights(path)
    if weights is None:
        reason = "no run there"
        if (path / "config.yaml").is_file():
            reason = "the run is not finished; type its train command again to finish it"
        raise UserError(f"run={directory}: {reason} (looked for adapter/adapter_config.json and model/config.json).")
    if seal.tree() is None and (root / "data.json").is_file():
        _say(f"{root} is {UNSEALED}: damage to its config.yaml is not noticed")
    faults = seal.folder_faults(weights) if seal.tree() or (weights / MANIFEST).is_file() else []
    config = _config_file(path, weights, seal, restorable=not faults)
    still_works = [STILL_WORKS.format(root=root)] if seal.tree() else []
    best = _best_checkpoint(root, seal) if faults and weights.name == "adapter" else None
    if faults and best is None:
        raise UserError(*(f"{weights} is damaged: {fault}." for fault in faults), *still_works)
    recorded = load_yaml(config)
    groups = {
        group: {**require_shape(recorded.get(group) or {}, JsonObject, f"{config}: {group}")}
        for group in ("data", "evaluation", "method", "model")
    }
    groups["evaluation"]["base"] = False
    recorded |= groups
    if best and groups["method"].get("router") == "domain":
        # Its frozen experts are not among the weights of a checkpoint.
        raise UserError(*(f"{weights} is damaged: {fault}." for fault in faults), *still_works)
    whole = not best and not (weights / "adapter_config.json").is_file()
    return SavedRun(path, weights, whole, recorded, best)


def _config_file(path: Path, weights: Path, seal: Seal, restorable: bool) -> Path:
    """The config.yaml to read; a damaged one is restored from the copy beside the weights.

    Raises:
        UserError: there is none, or it is damaged.
    """
    own = path / "config.yaml"
    copy = weights / "config.yaml"
    sealed = ((seal.tree() or {}).get("files") or {}).get("config.yaml")
    if sealed and path == seal.root and (faults := seal.faults("config.yaml")):
        if not restorable or file_state(copy) not in sealed:
            raise UserError(f"{path}/{faults[0]}.", STILL_WORKS.format(root=path))
        try:
            seal.write_text(own, copy.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}/{faults[0]}, and cannot be written: {error.strerror}.") from error
        _say(f"{path}/{faults[0]}: restored from {copy}, which is whole")
    config = next((file for file in (own, copy) if file.is_file()), None)
    if config is None:
        raise UserError(
            f"run={path}: no config.yaml next to the weights, so their base model and prompt are unknown; "
            "mosld writes one."
        )
    return config


def _best_checkpoint(root: Path, seal: Seal) -> Path | None:
    """The weights that a finished run was saved from, if they are whole."""
    results = RunDirectory(root).finished()
    if not results:
        return None
    checkpoints = root / "checkpoints"
    name = f"best-{results.get('best_step'):06}"
    return checkpoints / name if (checkpoints / name).is_dir() and not seal.folder_faults(checkpoints / name) else None


def _say(message: str) -> None:
    if is_main():
        print(f"note: {message}", file=sys.stderr)


def find_weights(path: Path) -> Path | None:
    """The first directory that holds an adapter or a model: the named one, or one of a run's two."""
    marks = [
        (path, "adapter_config.json"),
        (path, "config.json"),
        (path / "adapter", "adapter_config.json"),
        (path / "model", "config.json"),
    ]
    seal = Seal(path)
    # An adapter that lost its files is still the run's.
    listed = (path / name for name in ("adapter", "model") if seal.tree() and seal.lists(path / name / MANIFEST))
    return next((folder for folder, mark in marks if (folder / mark).is_file()), next(listed, None))
