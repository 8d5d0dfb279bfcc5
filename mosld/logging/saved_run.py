"""What `mosld.eval` is pointed at: a run directory, or the adapter directory of a run, wherever it was copied."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosld.config import UserError
from mosld.logging.manifest import MANIFEST, damage
from mosld.logging.run_directory import read_config_tree


@dataclass(frozen=True)
class SavedRun:
    """A trained adapter and the config it was trained with.

    Attributes:
        path: the directory that was named.
        adapter: the PEFT directory.
        recorded: the tree of its config.yaml; scoring the untrained model is off in it.
    """

    path: Path
    adapter: Path
    recorded: dict[str, Any]


def saved_run(place: str) -> SavedRun:
    """Find the adapter and the config below `place`.

    Raises:
        UserError: nothing there can be scored, and why.
    """
    path = Path(place)
    if not path.is_dir():
        raise UserError(f"run={place}: no such directory.")
    adapter = path if (path / "adapter_config.json").is_file() else path / "adapter"
    if not (adapter / "adapter_config.json").is_file():
        unfinished = (path / "config.yaml").is_file()
        why = "the run has no adapter yet; type its train command again to finish it" if unfinished else "no run there"
        raise UserError(f"run={place}: {why} (looked for {adapter / 'adapter_config.json'}).")
    config = next((c for c in (path / "config.yaml", adapter / "config.yaml") if c.is_file()), None)
    if config is None:
        raise UserError(
            f"run={place}: the adapter has no config.yaml beside it, so its base model is unknown; mosld writes one."
        )
    faults = list(damage(adapter)) if (adapter / MANIFEST).is_file() else []
    if faults:
        raise UserError(*(f"{adapter} is damaged: {fault}." for fault in faults))
    recorded = read_config_tree(config)
    recorded["evaluation"] = {**(recorded.get("evaluation") or {}), "base": False}
    return SavedRun(path, adapter, recorded)
