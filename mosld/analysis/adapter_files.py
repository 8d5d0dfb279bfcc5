"""The saved experts and routing of one run, read from its files; no model is loaded.

Shapes: I in, O out, R rank, E experts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import TypedDict

from mosld.common.errors import UserError
from mosld.common.reading import load_json
from mosld.config.schema import Config
from mosld.runs.saved import SavedRun

Array = NDArray[np.float64]
ExpertUsage = Mapping[str, Mapping[str, Array]]
"""By task and module, each expert's share of the gates [E]."""

WEIGHTS_FILE = "adapter_model.safetensors"
TENSOR_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)\.(?:mosld_mixture|lora)[._](?:(?P<projection>gate|up|down)\.)?"
    r"(?P<side>[ABM])(?:\.weight)?"
)


@dataclass(frozen=True)
class Bank:
    """The experts of one linear layer.

    Attributes:
        A_ERI: their down-projections in float64; one for all if A is shared.
        B_EOR: their up-projections in float64; one for all if B is shared.
    """

    key: str
    A_ERI: Array
    B_EOR: Array

    @property
    def experts(self) -> int:
        return max(len(self.A_ERI), len(self.B_EOR))

    @property
    def rank(self) -> int:
        return self.A_ERI.shape[1]


@dataclass(frozen=True)
class AdapterRun:
    """A run with experts, or with a single A a layer, that can be inspected."""

    saved: SavedRun
    config: Config

    @property
    def directory(self) -> Path:
        """The run's directory, also if the adapter's was named."""
        path = self.saved.path.resolve()
        return path.parent if path.name == "adapter" else self.saved.path

    @property
    def is_mixture(self) -> bool:
        return self.config.method.kind == "mixture"

    @property
    def has_single_a(self) -> bool:
        """Whether a layer has one A: shared by its experts, or a LoRA's."""
        return self.config.method.kind == "lora" or self.config.method.share in ("A", "both")

    @cached_property
    def banks(self) -> dict[str, Bank]:
        """The experts of every adapted linear layer, by its name.

        Raises:
            UserError: the files are no adapter of this method.
        """
        folder = self.saved.weights
        try:
            rank = load_json(folder / "adapter_config.json", _Rank)["r"] if self.is_mixture else None
            banks = banks_of(load_file(folder / WEIGHTS_FILE), rank)
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{folder}: cannot be read as an adapter: {error}") from error
        if not banks:
            raise UserError(f"{folder}: {WEIGHTS_FILE} holds no A and B of {self.config.method.name}.")
        return banks

    @property
    def single_a(self) -> dict[str, Array]:
        """The A [R, I] of each layer that has only one."""
        return {key: bank.A_ERI[0] for key, bank in self.banks.items() if len(bank.A_ERI) == 1}

    def routing(self, evaluation: str | None) -> ExpertUsage | None:
        """Expert usage from routing.json of the run, or of its evaluation of that name; None without that file.

        Raises:
            UserError: the file is damaged, or the named evaluation is not there.
        """
        folder = self.directory / "eval" / evaluation if evaluation else self.directory
        path = folder / "routing.json"
        if not path.is_file():
            if evaluation and self.is_mixture:
                names = sorted(path.parent.name for path in self.directory.glob("eval/*/routing.json"))
                hint = f"there is {', '.join(names)}" if names else "python -m mosld.eval makes one"
                raise UserError(f"--evaluation {evaluation}: no {path}; {hint}.")
            return None
        seal = self.saved.seal
        # One that the user put there and names is read.
        if (not evaluation or seal.lists(path)) and (fault := seal.fault(path)):
            raise UserError(f"{path}: is damaged: {fault}; python -m mosld.eval run={self.directory} makes another.")
        table = load_json(path, dict[str, dict[str, _Usage]])
        return {task: {module: _shares(entry["weight"]) for module, entry in table[task].items()} for task in table}


class _Rank(TypedDict):
    r: PositiveInt


class _Usage(TypedDict):
    weight: list[float]


def _shares(weights: list[float]) -> Array:
    weights_E = np.array(weights, dtype=np.float64)
    return weights_E / weights_E.sum()


def banks_of(tensors: Mapping[str, Tensor], rank: int | None) -> dict[str, Bank]:
    """The experts of every layer from an adapter's tensors.

    Experts are concatenated: expert i has rows i*R to (i+1)*R of A and the same columns of B. Where A and B are shared,
    the experts' own B are ``B M_i``.

    Args:
        tensors: by their names in PEFT's files.
        rank: of an expert; None: a layer has one expert.

    Raises:
        ValueError, KeyError: A and B of a layer are not whole experts of this rank.
    """
    sides: dict[str, dict[str, Array]] = {}
    for name, tensor in tensors.items():
        match = TENSOR_NAME.fullmatch(name)
        if match:
            key = ".".join(part for part in (match["module"], match["projection"]) if part)
            sides.setdefault(key, {})[match["side"]] = tensor.detach().double().numpy()
    banks = {}
    for key, pair in sorted(sides.items(), key=lambda entry: layer_and_module(entry[0])):
        A, B = pair["A"], pair["B"]
        R = rank or len(A)
        if "M" in pair:
            B = np.concatenate([B @ core for core in pair["M"].reshape(-1, R, R)], axis=1)
        banks[key] = Bank(key, A.reshape(-1, R, A.shape[1]), B.T.reshape(-1, R, len(B)).transpose(0, 2, 1))
    return banks


def layer_and_module(key: str) -> tuple[int, str]:
    """The layer's number (0 if there is none) and the kind of module (q_proj, mlp.up) out of a module's name."""
    match = re.search(r"\.(\d+)\.(.+)", key)
    if match is None:
        return 0, key
    parts = match[2].split(".")
    return int(match[1]), ".".join(parts[-2:]) if parts[-1] in ("gate", "up", "down") else parts[-1]
