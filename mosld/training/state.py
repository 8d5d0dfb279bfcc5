"""What a run must remember to go on as if it had never stopped: weights, optimiser, position.

The rows of a step and its dropout are pure functions of the run's seed and the step, in every process, so there is no
state of random numbers to be saved.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mosld.config import UserError
from mosld.training.optim import trained_parameters


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


def save_weights(model: nn.Module, folder: Path) -> None:
    """The trained weights as weights.safetensors."""
    tensors = {name: p.detach().cpu().contiguous() for name, p in trained_parameters(model).items()}
    save_file(tensors, folder / "weights.safetensors")


def load_weights(model: nn.Module, folder: Path) -> None:
    """Put saved weights back, name by name.

    Raises:
        UserError: they are not those of the model, or no safetensors.
    """
    saved, parameters = _tensors(folder / "weights.safetensors"), trained_parameters(model)
    if {n: t.shape for n, t in saved.items()} != {n: p.shape for n, p in parameters.items()}:
        raise UserError(f"{folder}: holds the weights of another model or method; training.resume=never starts anew.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])


def save_state(model: nn.Module, optimizer: Any, progress: Progress, folder: Path) -> None:
    """Everything that resuming needs, as safetensors and JSON."""
    save_weights(model, folder)
    save_file(_optimizer_tensors(model, optimizer), folder / "optimizer.safetensors")
    (folder / "progress.json").write_text(json.dumps(dataclasses.asdict(progress)))


def load_state(model: nn.Module, optimizer: Any, folder: Path) -> Progress:
    """Put back what `save_state` saved, and return where the run was."""
    load_weights(model, folder)
    saved = _tensors(folder / "optimizer.safetensors")
    state: dict[int, dict[str, Tensor]] = {}
    for index, name in enumerate(trained_parameters(model)):
        prefix = f"{name}|"
        state[index] = {key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {i: s for i, s in state.items() if s}, "param_groups": groups})
    return Progress(**json.loads((folder / "progress.json").read_text()))


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:  # its checksum is right, so it was written thus: a pickle, say
        raise UserError(f"{path}: is no safetensors file ({error}); nothing else is read.") from error


def _optimizer_tensors(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    names = list(trained_parameters(model))
    return {
        f"{names[index]}|{key}": value.detach().cpu().contiguous()
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
    }
