"""MoA's mixture of domains from saved adapters: LoRAs of single tasks, and a smaller mixture that gets one more."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig
from mosld.adapters.layers import MixtureLinear
from mosld.adapters.load import WEIGHTS_FILE, check_weights_file
from mosld.common.errors import UserError

NAME_PREFIX = "base_model.model."  # of every weight in PEFT's files
VARIANTS = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "lora_bias")


@torch.no_grad()
def load_experts(model: PeftModel, folders: Mapping[str, Path]) -> None:
    """Copy the LoRA of each named domain into its expert's rows and columns of the bank.

    Args:
        model: a mixture with router "domain".
        folders: PEFT's directory of a LoRA, by domain.

    Raises:
        UserError: a LoRA does not fit: other layers, another rank, or a variant of LoRA.
    """
    domains = cast(MosldConfig, model.active_peft_config).domains or []
    for domain, folder in folders.items():
        lora_scale, tensors = read_lora(folder)
        for key, mixture in mixtures_of(model).items():
            names = [f"{NAME_PREFIX}{key}.lora_{part}.weight" for part in "AB"]
            if not all(name in tensors for name in names):
                raise UserError(f"{folder}: has no LoRA for {key}; method.targets must be those of the adapter.")
            A, B = (tensors.pop(name) for name in names)
            rank = mixture.rank
            if A.shape[0] != rank:
                raise UserError(f"{folder}: has rank {A.shape[0]}; set method.rank={A.shape[0]}.")
            expert = domains.index(domain)
            rows = slice(expert * rank, (expert + 1) * rank)
            mixture.A[rows] = A
            # The bank scales all experts alike; equal scales divide to exactly 1.
            mixture.B[:, rows] = B * (lora_scale / (mixture.config.alpha / rank))
        if tensors:
            raise UserError(
                f"{folder}: also adapts {next(iter(tensors))}; method.targets must be those of the adapter."
            )


def read_lora(folder: Path) -> tuple[float, dict[str, Tensor]]:
    """The scale ``alpha / r`` and the weights of a plain LoRA.

    Raises:
        UserError: it is none, or a variant that is more than ``alpha / r * B A``.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: holds no LoRA adapter ({error}).") from error
    variants = [key for key in VARIANTS if config.get(key)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or variants:
        raise UserError(f"{folder}: is no plain LoRA ({config.get('peft_type')} {' '.join(variants)}).")
    check_weights_file(folder)
    return config["lora_alpha"] / config["r"], load_file(folder / WEIGHTS_FILE)


@torch.no_grad()
def extend_from(model: PeftModel, folder: Path) -> None:
    """Copy a saved mixture of fewer domains into the first experts of this one, bit by bit, routers included.

    Raises:
        UserError: the saved mixture has other layers or shapes.
    """
    tensors = load_file(folder / WEIGHTS_FILE)
    for key, mixture in mixtures_of(model).items():
        for name, parameter in mixture.named_parameters():
            saved = tensors.pop(f"{NAME_PREFIX}{key}.mosld_mixture.{name}", None)
            if saved is None or any(a > b for a, b in zip(saved.shape, parameter.shape, strict=True)):
                raise UserError(f"{folder}: does not fit {key}: rank and targets must be those of the run.")
            parameter[: saved.shape[0], : saved.shape[1]] = saved


def freeze_experts(model: PeftModel) -> None:
    """Let only the routers train."""
    for mixture in mixtures_of(model).values():
        mixture.A.requires_grad_(False)
        mixture.B.requires_grad_(False)


def mixtures_of(model: PeftModel) -> dict[str, Mixture]:
    """The mixtures of the active adapter by the name of their layer."""
    layers = [module for module in model.modules() if isinstance(module, MixtureLinear)]
    return {layer.key: cast(Mixture, layer.mosld_mixture[model.active_adapter]) for layer in layers}
