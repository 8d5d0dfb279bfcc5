"""Mixtures from saved adapters: LoRAs that become experts, and MoA's smaller mixture that gets one more domain."""

from collections.abc import Mapping
from pathlib import Path
from typing import Required, cast

import torch
from peft import PeftModel
from pydantic import PositiveInt
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import TypedDict

from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig
from mosld.adapters.layers import MixtureLinear
from mosld.adapters.load import NAME_PREFIX, WEIGHTS_FILE, check_weights_file
from mosld.common.errors import UserError
from mosld.common.reading import load_json
from mosld.config.method_checks import lora_variants

LoraPairs = dict[str, tuple[Tensor, Tensor]]  # A and B by the name of the layer


def load_experts(model: PeftModel, folders: Mapping[str, Path]) -> None:
    """Make LoRAs the experts of a mixture: of router "domain" those of the named domains, else all in their order.

    Args:
        model: a mixture whose experts share nothing (MoA, MoLA, MoLoRA).
        folders: PEFT's directory of a LoRA, by domain or any other name.

    Raises:
        UserError: a LoRA does not fit: other layers, another rank, or a variant of LoRA; or they are too few or many.
    """
    config = cast(MosldConfig, model.active_peft_config)
    names = config.domains or list(folders)
    for key, mixture in mixtures_of(model).items():
        if mixture.experts != len(names):
            raise UserError(f"{key} has {mixture.experts} experts, and {len(names)} LoRAs are given for them.")
    loras = {name: fitting_lora(model, folder) for name, folder in folders.items()}
    for name, pairs in loras.items():
        set_expert(model, names.index(name), pairs)


def fitting_lora(model: PeftModel, folder: Path) -> LoraPairs:
    """The A and B of a LoRA for every layer of a mixture, B scaled as the mixture's own (see `load_experts`)."""
    lora_scale, tensors = read_lora(folder)
    pairs = {}
    for key, mixture in mixtures_of(model).items():
        names = [f"{NAME_PREFIX}{key}.lora_{part}.weight" for part in "AB"]
        if not all(name in tensors for name in names):
            raise UserError(f"{folder}: has no LoRA for {key}; method.targets must be those of the adapter.")
        A, B = (tensors.pop(name) for name in names)
        if len(A) != mixture.rank:
            raise UserError(f"{folder}: has rank {len(A)}, the mixture {mixture.rank}; set method.rank={len(A)}.")
        if (A.shape[1], len(B)) != (mixture.A.shape[1], len(mixture.B)):
            raise UserError(
                f"{folder}: maps {A.shape[1]} to {len(B)} numbers in {key}, where the model has {mixture.A.shape[1]} "
                f"and {len(mixture.B)}: it belongs to another base model."
            )
        # The bank scales all experts alike; equal scales divide to exactly 1.
        pairs[key] = A, B * (lora_scale / (mixture.config.alpha / mixture.rank))
    if tensors:
        raise UserError(f"{folder}: also adapts {next(iter(tensors))}; method.targets must be those of the adapter.")
    return pairs


class _LoraConfig(TypedDict, total=False):
    """What a plain LoRA's adapter_config.json has."""

    peft_type: str
    r: Required[PositiveInt]
    lora_alpha: Required[float]
    bias: str


@torch.no_grad()
def set_expert(model: PeftModel, expert: int, pairs: LoraPairs) -> None:
    """Copy a LoRA into one expert's rows and columns of the bank of every layer.

    Args:
        expert: its index; from the end where it is negative, as layers may have different numbers.
    """
    for key, mixture in mixtures_of(model).items():
        first = expert % mixture.experts * mixture.rank
        part = slice(first, first + mixture.rank)
        mixture.A[part], mixture.B[:, part] = pairs[key]


def read_lora(folder: Path) -> tuple[float, dict[str, Tensor]]:
    """The scale ``alpha / r`` and the weights of a plain LoRA.

    Raises:
        UserError: it is none, or a variant that is more than ``alpha / r * B A``.
    """
    try:
        config = load_json(folder / "adapter_config.json", _LoraConfig)
    except UserError as error:
        raise UserError(f"{folder}: holds no LoRA adapter ({error}).") from error
    variants = lora_variants(config)
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
