"""A plain LoRA as every reader of PEFT's format takes it, and the updates of an adapter that are one exactly.

Shapes: R rank, I in, O out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from mosld.adapters.bank import ExpertBank
from mosld.adapters.load import NAME_PREFIX, WEIGHTS_FILE, base_model_of
from mosld.adapters.moa import mixtures_of
from mosld.common.errors import UserError
from mosld.common.files import write_json

Updates = dict[str, tuple[Tensor, Tensor]]
"""By the name of a linear layer, A [R, I] and B [O, R] of its update ``B A x``: the whole scale is in B."""

# vLLM's own limit where --max-lora-rank is not given.
VLLM_RANK = 16


def lora_updates(model: PeftModel) -> Updates:
    """The updates of PEFT's LoRA."""
    name = cast(str, model.active_adapter)
    return {
        key: (_weight(layer.lora_A[name]), layer.scaling[name] * _weight(layer.lora_B[name]))
        for key, layer in base_model_of(model).named_modules()
        if isinstance(layer, LoraLayer)
    }


def _weight(layer: nn.Module) -> Tensor:
    return cast(nn.Linear, layer).weight


def expert_updates(model: PeftModel, expert: int) -> Updates:
    """The updates of one expert of each linear layer; of a layer with a single LoRA, that one."""
    return {
        key: expert_update(mixture, min(expert, mixture.experts - 1)) for key, mixture in mixtures_of(model).items()
    }


def expert_update(bank: ExpertBank, expert: int) -> tuple[Tensor, Tensor]:
    """A and B of one expert of a bank."""
    part = slice(expert * bank.rank, (expert + 1) * bank.rank)
    A_RI = bank.A if bank.config.share == "A" else bank.A[part]
    B_OR = bank.B if bank.config.share == "B" else bank.B[:, part]
    return A_RI, bank.config.alpha / bank.rank * B_OR


def rank_of(updates: Updates) -> int:
    """The largest rank of the layers."""
    return max(A_RI.shape[0] for A_RI, _ in updates.values())


def padded(updates: Updates) -> Updates:
    """The updates with one rank for all layers: rows of zeros in A, columns of zeros in B."""
    rank = rank_of(updates)
    return {
        key: (pad(A_RI, (0, 0, 0, rank - A_RI.shape[0])), pad(B_OR, (0, rank - A_RI.shape[0])))
        for key, (A_RI, B_OR) in updates.items()
    }


def checked(updates: Updates) -> Updates:
    """The updates in float32 without gradients, and with one rank.

    Raises:
        UserError: a weight is no number, as after a run that diverged.
    """
    for key, factors in updates.items():
        if not all(factor.isfinite().all() for factor in factors):
            raise UserError(f"{key}: the adapter's weights are not finite: the run diverged; train it again.")
    return padded({key: (A_RI.detach().float(), B_OR.detach().float()) for key, (A_RI, B_OR) in updates.items()})


def write_lora(
    updates: Updates, base: nn.Module, base_name: str, revision: str | None, dtype: torch.dtype, folder: Path
) -> None:
    """Write adapter_config.json and adapter_model.safetensors for PEFT, vLLM and transformers.

    vLLM reads one rank and one alpha for all layers: alpha is the rank, since the scale is in B.

    Args:
        updates: what to write, all of one rank.
        base: the base model, whose other linear layers are not to be adapted.
    """
    rank = rank_of(updates)
    tensors = {
        f"{NAME_PREFIX}{key}.lora_{part}.weight": factor.to(dtype).cpu().contiguous()
        for key, factors in updates.items()
        for part, factor in zip("AB", factors, strict=True)
    }
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=_targets(updates, base),
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=base_name,
        revision=revision,
    ).to_dict()
    tree = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    write_json(folder / "adapter_config.json", tree)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _targets(updates: Updates, base: nn.Module) -> list[str]:
    """The last names of the adapted layers; whole names where other layers have the same last name."""
    names = {key.rpartition(".")[2] for key in updates}
    alike = {key for key, _ in base.named_modules() if key.rpartition(".")[2] in names}
    return sorted(names if alike == set(updates) else updates)


@torch.no_grad()
def add_to_base(base: PreTrainedModel, updates: Mapping[str, tuple[Tensor, Tensor]]) -> PreTrainedModel:
    """Add ``B A`` to the weights of the base model, in place and in their dtype."""
    for key, (A_RI, B_OR) in updates.items():
        cast(nn.Linear, base.get_submodule(key)).weight += B_OR @ A_RI
    return base
