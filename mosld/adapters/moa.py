"""A mixture of domains out of parts: LoRA adapters of single tasks, and a smaller mixture to which one is added."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from mosld.adapters.bank import Mixture
from mosld.adapters.layers import MixtureLinear
from mosld.adapters.load import WEIGHTS
from mosld.common.errors import UserError

PREFIX = "base_model.model."  # of every name in PEFT's files


def mixtures_of(model: PeftModel) -> dict[str, Mixture]:
    """The mixtures of the active adapter by the name of their layer."""
    layers: dict[str, Any] = {m.key: m for m in model.modules() if isinstance(m, MixtureLinear)}
    return {key: layer.mosld_mixture[model.active_adapter] for key, layer in layers.items()}


@torch.no_grad()
def load_experts(model: PeftModel, folders: Mapping[str, Path]) -> None:
    """Copy the LoRA of each named domain into its place in the bank.

    Args:
        model: a mixture with router "domain".
        folders: PEFT's directory of a LoRA, by domain.

    Raises:
        UserError: a LoRA does not fit: other layers, another rank, or a variant of LoRA.
    """
    domains: list[str] = model.active_peft_config.domains
    for domain, folder in folders.items():
        config, tensors = read_lora(folder)
        for key, mixture in mixtures_of(model).items():
            names = [f"{PREFIX}{key}.lora_{part}.weight" for part in "AB"]
            if not all(name in tensors for name in names):
                raise UserError(f"{folder}: has no LoRA for {key}; method.targets must be those of the adapter.")
            A, B = (tensors.pop(name) for name in names)
            if A.shape[0] != mixture.rank:
                raise UserError(f"{folder}: has rank {A.shape[0]}; set method.rank={A.shape[0]}.")
            place = slice(domains.index(domain) * mixture.rank, (domains.index(domain) + 1) * mixture.rank)
            mixture.A[place] = A
            # The bank scales all experts alike; equal scales divide to exactly 1.
            mixture.B[:, place] = B * ((config["lora_alpha"] / config["r"]) / (mixture.config.alpha / mixture.rank))
        if tensors:
            raise UserError(
                f"{folder}: also adapts {next(iter(tensors))}; method.targets must be those of the adapter."
            )


def read_lora(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the weights of a plain LoRA.

    Raises:
        UserError: it is none, or a variant that is more than ``alpha / r * B A``.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: holds no LoRA adapter ({error}).") from error
    odd = [key for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "lora_bias") if config.get(key)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or odd:
        raise UserError(f"{folder}: is no plain LoRA ({config.get('peft_type')} {' '.join(odd)}).")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: {WEIGHTS} is missing (pickled weights are not loaded).")
    return config, load_file(folder / WEIGHTS)


@torch.no_grad()
def extend_from(model: PeftModel, folder: Path) -> None:
    """Copy a saved mixture of fewer domains into the first places of this one, bit by bit, routers included.

    Raises:
        UserError: the saved mixture has other layers or shapes.
    """
    tensors = load_file(folder / WEIGHTS)
    for key, mixture in mixtures_of(model).items():
        for name, parameter in mixture.named_parameters():
            saved = tensors.pop(f"{PREFIX}{key}.mosld_mixture.{name}", None)
            fits = saved is not None and all(a <= b for a, b in zip(saved.shape, parameter.shape, strict=True))
            if saved is None or not fits:
                raise UserError(f"{folder}: does not fit {key}: rank and targets must be those of the run.")
            parameter[: saved.shape[0], : saved.shape[1]] = saved


def freeze_experts(model: PeftModel) -> None:
    """Let the routers alone be trained."""
    for mixture in mixtures_of(model).values():
        mixture.A.requires_grad_(False)
        mixture.B.requires_grad_(False)
