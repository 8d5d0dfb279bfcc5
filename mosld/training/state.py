"""What a run must remember to go on as if it had never stopped: weights, optimiser, position.

The rows of a step and its dropout are pure functions of the run's seed and the step, in every process, so there is no
state of random numbers to be saved. The main process alone reads and writes; where the others hold parts of what is
saved, all take part.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from mosld.config import UserError
from mosld.model.gathering import shape
from mosld.training.engine import Engine
from mosld.training.optim import trained_parameters
from mosld.training.tensor_files import SavedTensors, write_tensors


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: optimiser steps taken; the rows of the next one are a pure function of it.
        tokens: tokens seen, pads not counted.
        seconds: time spent training, over all starts.
        best_score: best mean validation accuracy so far.
        best_step: the step of that validation.
        skipped: steps whose loss or gradient was not finite.
        skipped_in_a_row: of these, the ones just before this step.
        micro_batch_size: rows per forward pass that fit in memory; 0 before step 1.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    best_step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    micro_batch_size: int = 0


def save_weights(engine: Engine, folder: Path | None) -> None:
    """The trained weights as weights.safetensors; no folder: this process only sends its parts of them."""
    write_tensors(engine.weights(), folder, "weights")


def load_weights(engine: Engine, folder: Path) -> None:
    """Put saved weights back, name by name.

    Raises:
        UserError: they are not those of the model, or no safetensors.
    """
    team = engine.processes
    saved = SavedTensors(folder, "weights") if team.main else None
    shapes = {name: shape(p) for name, p in trained_parameters(engine.model).items()}
    if not team.from_main(saved and saved.shapes() == shapes):
        raise UserError(f"{folder}: holds the weights of another model or method; training.resume=never starts anew.")
    engine.put_weights(saved)


def save_state(engine: Engine, progress: Progress, folder: Path | None) -> None:
    """Everything that resuming needs, as safetensors and JSON; without a folder as `save_weights`."""
    save_weights(engine, folder)
    write_tensors(engine.moments(), folder, "optimizer")
    if folder is not None:
        (folder / "progress.json").write_text(json.dumps(dataclasses.asdict(progress)))


def load_state(engine: Engine, folder: Path) -> Progress:
    """Put back what `save_state` saved, and return where the run was."""
    team = engine.processes
    load_weights(engine, folder)
    engine.put_moments(SavedTensors(folder, "optimizer") if team.main else None)
    return Progress(**team.from_main(json.loads((folder / "progress.json").read_text()) if team.main else None))
