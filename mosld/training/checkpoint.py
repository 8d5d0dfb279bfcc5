"""The checkpoints of a run. Resuming takes the newest one that is whole, and names what it passed over."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from mosld.config.ranks import is_main
from mosld.logging.manifest import damage, write_folder

Write = Callable[[Path | None], None]
"""Fills the folder of a checkpoint; without one, in the other processes, it only sends parts of what is written."""


class Checkpoints:
    """`step-000120` and so on, and `best-000080`, the weights of the best validation."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        """Name the folder; what a killed process left half written is removed."""
        self.folder, self.keep_last = folder, keep_last
        if not is_main():  # reads alone
            return
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".tmp-*"):
            shutil.rmtree(stale)

    def best(self, step: int) -> Path:
        """The weights of the validation at `step`."""
        return self.folder / f"best-{step:06d}"

    def save_best(self, step: int, write: Write) -> None:
        """Save the weights of the best validation so far; former ones stay while a checkpoint names them."""
        write_folder(self.best(step), write, meanwhile=lambda: write(None))

    def save_step(self, step: int, write: Write) -> Path:
        """Save the checkpoint of a step, then delete what is no longer needed; returns its folder.

        Kept are the last `keep_last` up to this step (later ones are left over from before a fall-back) and the best
        weights that each of them names.
        """
        folder = self.folder / f"step-{step:06d}"
        write_folder(folder, write, meanwhile=lambda: write(None))
        if is_main():
            self._delete_old(folder)
        return folder

    def _delete_old(self, newest: Path) -> None:
        names = [folder.name for folder in self._steps()]
        now = names.index(newest.name) + 1
        kept = names[:now][-self.keep_last :]
        for name in names:
            if name not in kept:
                shutil.rmtree(self.folder / name)
        named = {self.best(_best_step(self.folder / name)) for name in kept}
        for old in self.folder.glob("best-*"):
            if old not in named:
                shutil.rmtree(old)

    def newest(self, report: Callable[[str], None]) -> Path | None:
        """The newest whole checkpoint; `report` is told of each damaged one that is passed over."""
        for folder in reversed(self._steps()):
            faults = list(damage(folder))
            if not faults:
                return folder
            report(f"checkpoint {folder.name} is damaged and passed over: {faults[0]}")
        if self._steps():
            report("no checkpoint is whole: training starts at step 0 again")
        return None

    def _steps(self) -> list[Path]:
        """The checkpoints in the order of their steps; a folder of another name is none."""
        found = [folder for folder in self.folder.glob("step-*") if folder.name.removeprefix("step-").isdecimal()]
        return sorted(found, key=lambda folder: int(folder.name.removeprefix("step-")))


def _best_step(folder: Path) -> int:
    try:
        return json.loads((folder / "progress.json").read_text())["best_step"]
    except (OSError, ValueError, KeyError):  # damaged: it names nothing
        return 0
