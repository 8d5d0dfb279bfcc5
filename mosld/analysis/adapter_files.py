"""The saved experts of one run, read from its files; no model is loaded.

Shapes: I in, O out, R rank, E experts.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from mosld.common.errors import UserError
from mosld.config.schema import Config
from mosld.runs.saved import SavedRun

Array = NDArray[Any]
WEIGHTS = "adapter_model.safetensors"  # PEFT's name
PLACES = re.compile(
    r"(?:base_model\.model\.)?(.+?)\.(?:mosld_mixture|lora)[._](?:(gate|up|down)\.)?([AB])(?:\.weight)?"
)


@dataclass(frozen=True)
class Bank:
    """The experts of one linear layer.

    Attributes:
        key: the layer's name in the model.
        A_ERI: their down-projections in float64; one for all where A is shared.
        B_EOR: their up-projections in float64; one for all where B is shared.
    """

    key: str
    A_ERI: Array
    B_EOR: Array

    @property
    def experts(self) -> int:
        """How many there are."""
        return max(len(self.A_ERI), len(self.B_EOR))

    @property
    def layer(self) -> int:
        """The layer's number in the model."""
        return layer_and_kind(self.key)[0]

    @property
    def kind(self) -> str:
        """Which of its layer's modules it is: q_proj, mlp.up, ..."""
        return layer_and_kind(self.key)[1]


@dataclass(frozen=True)
class AdapterRun:
    """A run whose experts or A can be looked at.

    Attributes:
        saved: where it lies.
        config: its config.
    """

    saved: SavedRun
    config: Config

    @property
    def directory(self) -> Path:
        """The run's directory, also where its adapter was named."""
        whole = self.saved.path.resolve()
        return whole.parent if whole.name == "adapter" else self.saved.path

    @property
    def mixture(self) -> bool:
        """Whether it has experts."""
        return self.config.method.kind == "mixture"

    @property
    def one_A(self) -> bool:
        """Whether a layer has one A: shared by its experts, or a LoRA's."""
        return self.config.method.kind == "lora" or self.config.method.share == "A"

    @cached_property
    def banks(self) -> dict[str, Bank]:
        """The experts of every adapted linear layer, by its name.

        Raises:
            UserError: the files are no adapter of this method.
        """
        folder = self.saved.weights
        try:
            rank = json.loads((folder / "adapter_config.json").read_text())["r"] if self.mixture else None
            found = banks(load_file(folder / WEIGHTS), rank)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"{folder}: cannot be read as an adapter: {error}") from error
        if not found:
            raise UserError(f"{folder}: {WEIGHTS} holds no A and B of {self.config.method.name}.")
        return found

    @property
    def single_A(self) -> dict[str, Array]:
        """The A [R, I] of each layer that has only one."""
        return {key: bank.A_ERI[0] for key, bank in self.banks.items() if len(bank.A_ERI) == 1}

    def routing(self, evaluation: str | None) -> dict[str, Any] | None:
        """routing.json of the run, or of its evaluation of that name; None where there is none.

        Raises:
            UserError: the file is damaged, or the named evaluation is not there.
        """
        folder = self.directory / "eval" / evaluation if evaluation else self.directory
        path = folder / "routing.json"
        if not path.is_file():
            if evaluation and self.mixture:
                there = sorted(found.parent.name for found in self.directory.glob("eval/*/routing.json"))
                has = f"there is {', '.join(there)}" if there else "python -m mosld.eval makes one"
                raise UserError(f"--evaluation {evaluation}: no {path}; {has}.")
            return None
        try:
            table = json.loads(path.read_text())
            return {task: {module: _weights(entry) for module, entry in table[task].items()} for task in table}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: is damaged ({type(error).__name__}: {error}).") from error


def banks(tensors: Mapping[str, Any], rank: int | None) -> dict[str, Bank]:
    """The experts of every layer out of an adapter's tensors.

    They stand side by side: expert i has rows i*R to (i+1)*R of A and the same columns of B.

    Args:
        tensors: by their names in PEFT's files.
        rank: of an expert; None: a layer has one expert.

    Raises:
        ValueError, KeyError: A and B of a layer are not whole experts of this rank.
    """
    found: dict[str, dict[str, Array]] = {}
    for name, tensor in tensors.items():
        place = PLACES.fullmatch(name)
        if place:
            key = f"{place[1]}.{place[2]}" if place[2] else place[1]
            found.setdefault(key, {})[place[3]] = tensor.detach().double().numpy()
    return {key: _bank(key, pair["A"], pair["B"], rank) for key, pair in sorted(found.items(), key=_by_layer)}


def _bank(key: str, A: Array, B: Array, rank: int | None) -> Bank:
    own = rank or len(A)
    return Bank(key, A.reshape(-1, own, A.shape[1]), B.T.reshape(-1, own, len(B)).transpose(0, 2, 1))


def layer_and_kind(key: str) -> tuple[int, str]:
    """The number of the layer and the kind of module, out of a module's name; 0 where it has no number."""
    number = re.search(r"\.(\d+)\.(.+)", key)
    if number is None:
        return 0, key
    own = number[2].split(".")
    return int(number[1]), ".".join(own[-2:]) if own[-1] in ("gate", "up", "down") else own[-1]


def _by_layer(entry: tuple[str, Any]) -> tuple[int, str]:
    return layer_and_kind(entry[0])


def _weights(entry: Mapping[str, Any]) -> Array:
    """The mean gate of each expert, as its part of their sum."""
    weights = np.array(entry["weight"], dtype=np.float64)
    return weights / weights.sum()
