"""What `mosld.eval` and its kin are pointed at: a run directory, or the adapter or model directory out of one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosld.common.errors import UserError
from mosld.common.files import MANIFEST, damage
from mosld.config.rerun import rerun_config
from mosld.config.schema import Config
from mosld.runs.directory import read_config_tree


@dataclass(frozen=True)
class SavedRun:
    """What a run trained, and the config it was trained with.

    Attributes:
        path: the directory that was named.
        weights: the directory of the adapter (PEFT's format), or of the whole model (transformers' format).
        whole: whether it is the whole model.
        recorded: the tree of its config.yaml; scoring the untrained model is off in it.
    """

    path: Path
    weights: Path
    whole: bool
    recorded: dict[str, Any]

    def config(self, **model: str) -> Config:
        """The checked config of the run, with keys of the model group replaced (path, dtype).

        Raises:
            UserError: what does not fit.
        """
        replaced = {**(self.recorded.get("model") or {}), **model}
        return rerun_config({**self.recorded, "model": replaced}, [])


def saved_run(place: str) -> SavedRun:
    """Find the trained weights and the config below `place`.

    Raises:
        UserError: nothing there can be used, and why.
    """
    path = Path(place)
    if not path.is_dir():
        raise UserError(f"run={place}: no such directory.")
    weights = _weights(path)
    if weights is None:
        unfinished = (path / "config.yaml").is_file()
        why = "the run is not finished; type its train command again to finish it" if unfinished else "no run there"
        raise UserError(f"run={place}: {why} (looked for adapter/adapter_config.json and model/config.json).")
    config = next((c for c in (path / "config.yaml", weights / "config.yaml") if c.is_file()), None)
    if config is None:
        raise UserError(
            f"run={place}: no config.yaml beside the weights, so their base model and prompt are unknown; "
            "mosld writes one."
        )
    faults = list(damage(weights)) if (weights / MANIFEST).is_file() else []
    if faults:
        raise UserError(*(f"{weights} is damaged: {fault}." for fault in faults))
    recorded = read_config_tree(config)
    recorded["evaluation"] = {**(recorded.get("evaluation") or {}), "base": False}
    return SavedRun(path, weights, not (weights / "adapter_config.json").is_file(), recorded)


def _weights(path: Path) -> Path | None:
    """The first directory that holds an adapter or a model: the named one, or one of a run's two."""
    marks = [(path, "adapter_config.json"), (path, "config.json")]
    marks += [(path / "adapter", "adapter_config.json"), (path / "model", "config.json")]
    return next((folder for folder, mark in marks if (folder / mark).is_file()), None)
