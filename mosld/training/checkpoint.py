"""The checkpoints of a run: everything that resuming needs, as safetensors and JSON.

Rows and dropout of a step are pure functions of the run's seed and the step, in every process, so no state of random
number generators is saved. Only the main process reads and writes; where the others hold shards of what is saved, all
take part. Resuming takes the newest whole checkpoint and names those it skips.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mosld.adapters.load import learned_tensors
from mosld.common.errors import UserError
from mosld.common.process import is_main
from mosld.common.reading import load_json
from mosld.common.seal import Seal
from mosld.distributed.tensors import full_shape
from mosld.training.engine import Engine
from mosld.training.tensor_files import SavedTensors, write_tensors

# Fills the folder of a checkpoint; with None, in the other processes, it only sends shards of what is written.
WriteCheckpoint = Callable[[Path | None], None]


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: optimiser steps taken; the rows of the next one are a pure function of it.
        tokens: tokens seen, pads not counted.
        seconds: time spent training, over all starts.
        best_step: the step of the best validation so far.
        best_score: its mean accuracy; -1 before the first validation and where nothing is scored.
        best_loss: its mean loss, in nats a token; None before the first validation and without validation rows.
        not_improved: validations in a row, up to this step, that were no better than one before.
        skipped: steps whose loss or gradient was not finite.
        skipped_in_a_row: of these, the ones just before this step.
        micro_batch_size: rows per forward pass that fit in memory; 0 before step 1.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_score: float = -1.0
    best_loss: float | None = None
    not_improved: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    micro_batch_size: int = 0


class Checkpoints:
    """`step-000120` and so on, and `best-000080`, the weights of the best validation."""

    def __init__(self, folder: Path, keep_last: int, seal: Seal | None = None) -> None:
        """Remove what a killed process left half written; `seal` is that of the run, if there is one."""
        self.folder = folder
        self.seal = seal or Seal(folder)
        self.keep_last = keep_last
        if not is_main():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".tmp-*"):
            shutil.rmtree(stale)

    def best(self, step: int) -> Path:
        """The weights of the validation at `step`."""
        return self.folder / f"best-{step:06d}"

    def save_best(self, step: int, write: WriteCheckpoint) -> None:
        """Save the weights of the best validation so far; former ones stay while a checkpoint names them."""
        self.seal.write_folder(self.best(step), write, meanwhile=lambda: write(None))

    def save_step(self, step: int, write: WriteCheckpoint) -> Path:
        """Save the checkpoint of a step, then delete what is no longer needed; returns its folder.

        Kept are the last `keep_last` up to this step (later ones are left over from before a fall-back) and the best
        weights that each of them names.
        """
        folder = self.folder / f"step-{step:06d}"
        self.seal.write_folder(folder, write, meanwhile=lambda: write(None))
        if is_main():
            self._delete_old(folder)
        return folder

    def _delete_old(self, newest: Path) -> None:
        names = [folder.name for folder in self._steps()]
        last = names[: names.index(newest.name) + 1][-self.keep_last :]
        best = {self.best(_best_step(self.folder / name)) for name in last}
        old = [self.folder / name for name in names if name not in last]
        self.seal.remove(*old, *(weights for weights in self.folder.glob("best-*") if weights not in best))

    def newest(self, report: Callable[[str], None]) -> Path | None:
        """The newest whole checkpoint; `report` gets a message for each damaged one that is skipped."""
        for folder in reversed(self._steps()):
            fault = self.fault(folder)
            if fault is None:
                return folder
            report(f"checkpoint {folder.name} is damaged and skipped: {fault}")
        if self._steps():
            report("no checkpoint is whole: training starts at step 0 again")
        return None

    def fault(self, folder: Path) -> str | None:
        """Why a checkpoint cannot be used, if so: it is damaged, missing, or of another run."""
        return next(iter(self.seal.folder_faults(folder)), None)

    def _steps(self) -> list[Path]:
        folders = [folder for folder in self.folder.glob("step-*") if folder.name.removeprefix("step-").isdecimal()]
        return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step-")))


def _best_step(folder: Path) -> int:
    try:
        return load_json(folder / "progress.json", Progress).best_step
    except UserError:
        return 0


def save_weights(engine: Engine, folder: Path | None) -> None:
    """Write the trained weights as weights.safetensors; without a folder this process only sends its shards."""
    write_tensors(engine.weights(), folder, "weights")


def load_weights(engine: Engine, folder: Path) -> None:
    """Load saved weights by name.

    Raises:
        UserError: they are weights of another model, or no safetensors.
    """
    group = engine.processes
    saved = SavedTensors(folder, "weights") if group.main else None
    shapes = {name: full_shape(p) for name, p in learned_tensors(engine.model).items()}
    if not group.broadcast(saved is not None and saved.shapes() == shapes):
        raise UserError(f"{folder}: holds the weights of another model or method; training.resume=never starts anew.")
    engine.load_weights(saved)


def save_state(engine: Engine, progress: Progress, folder: Path | None) -> None:
    """Write everything that resuming needs; without a folder as `save_weights`."""
    save_weights(engine, folder)
    write_tensors(engine.optimizer_state(), folder, "optimizer")
    if folder is not None:
        (folder / "progress.json").write_text(json.dumps(dataclasses.asdict(progress)))


def load_state(engine: Engine, folder: Path) -> Progress:
    """Load what `save_state` wrote; returns where the run was."""
    group = engine.processes
    load_weights(engine, folder)
    engine.load_optimizer_state(SavedTensors(folder, "optimizer") if group.main else None)
    return group.broadcast(load_json(folder / "progress.json", Progress) if group.main else None)
