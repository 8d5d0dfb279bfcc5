"""Checkpoints that are whole or not there.

Saving: all files into a temporary folder, each synced; a manifest with the size and sha256 of each; one rename; the
parent synced. Only then are old ones deleted. Resuming takes the newest checkpoint that verifies.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mosld.logging.manifest import MANIFEST, damage, write_manifest


class Checkpoints:
    """The checkpoints of one run: `step-000120` and so on, and `best-000080`."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        """Name the folder; half-written checkpoints of a killed process are removed."""
        self.folder, self.keep_last = folder, keep_last
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".tmp-*"):
            shutil.rmtree(stale)

    def best(self, step: int) -> Path:
        """The weights of the validation at `step`, the best so far."""
        return self.folder / f"best-{step:06d}"

    def save(self, target: Path, write: Callable[[Path], None]) -> None:
        """Let `write` fill a folder, then put it in place of any of that name."""
        aside = self.folder / f".tmp-{target.name}"
        aside.mkdir()
        write(aside)
        for path in [*write_manifest(aside), aside / MANIFEST, aside]:
            _sync(path)
        if target.exists():  # left by a run that was killed just after, or damaged
            shutil.rmtree(target)
        aside.rename(target)
        _sync(self.folder)

    def save_step(self, step: int, best_step: int, write: Callable[[Path], None]) -> None:
        """Save the checkpoint of a step, then delete the oldest ones beyond `keep_last` and former best weights."""
        self.save(self.folder / f"step-{step:06d}", write)
        for old in sorted(self.folder.glob("step-*"))[: -self.keep_last]:
            shutil.rmtree(old)
        for old in self.folder.glob("best-*"):
            if old != self.best(best_step):
                shutil.rmtree(old)

    def newest(self, report: Callable[[str], None]) -> Path | None:
        """The newest whole checkpoint; `report` is told of each damaged one that is passed over."""
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            faults = list(damage(folder))
            if not faults:
                return folder
            report(f"checkpoint {folder.name} is damaged and passed over: {faults[0]}")
        return None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
