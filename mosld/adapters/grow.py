"""A trained mixture gets more experts, loses one, or has one replaced; the other experts keep every bit.

Weights change their size, so an optimiser that was made before does not hold the new ones.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from mosld.adapters.bank import ExpertBank, expert_weights, select_experts
from mosld.adapters.config import MosldConfig
from mosld.adapters.layers import MixtureLayer
from mosld.adapters.moa import LoraPairs, fitting_lora, set_expert
from mosld.adapters.router import Router
from mosld.adapters.tuner import MosldModel
from mosld.common.errors import UserError


@torch.no_grad()
def grow(
    model: PeftModel,
    experts: int = 1,
    *,
    domains: Sequence[str] = (),
    loras: Sequence[str | Path] = (),
    seed: int | None = None,
) -> PeftModel:
    """Add experts to every layer of a trained mixture, behind those that it has.

    A new expert starts with B = 0 and a closed gate: in eval mode the model's outputs are bit by bit what they were,
    also after it is saved and loaded. In training mode the expert takes part, and its first update opens the gate
    (`bank.open_experts`). Its row of the router lies as far from the mean of the trained rows as they do, in a random
    direction, so that it competes with experts whose rows have grown.

    Args:
        model: the mixture; its active adapter is changed in place.
        experts: how many experts each layer gets, also where layers have different numbers.
        domains: of a mixture of domains (MoA), the name of each new expert.
        loras: PEFT directories of LoRAs that become the new experts, one each; their gates are open, so they change
            the outputs. Only where experts share nothing (MoA, MoLA, MoLoRA).
        seed: seed of the new weights; None: the global RNG as it stands.

    Returns:
        The model.

    Raises:
        UserError: the model has no mixture, the numbers do not fit, or a LoRA does not.
    """
    config = mixture_config(model)
    count = len(loras) or experts
    if count < 1:
        raise UserError(f"experts={experts}: at least one expert is added.")
    pairs = [_lora_for(model, folder) for folder in loras]
    if len(domains) != (count if config.router == "domain" else 0):
        needed = f"each of the {count} new experts needs a name" if config.router == "domain" else "experts have none"
        raise UserError(f"domains={list(domains)}: {needed}; router={config.router}.")
    names = [*(config.domains or []), *domains]
    if len(set(names)) < len(names):
        raise UserError(f"domains={list(domains)}: names an expert twice; the experts would be {', '.join(names)}.")
    if seed is not None:
        torch.manual_seed(seed)
    for mixture in _mixtures(model):
        for module, name, axis in expert_weights(mixture):
            weight = getattr(module, name)
            new = _new_rows(module, name, count) if isinstance(module, Router) else _new_parts(module, name, count)
            _replace(module, name, torch.cat([weight, new.to(weight)], axis))
        _count(mixture, count)
    cast(MosldModel, model.base_model).pop_load()  # counts of fewer experts
    config.experts = _changed(config.experts, count)
    config.grown += count
    config.domains = names or None
    for number, lora in enumerate(pairs):
        set_expert(model, number - count, lora)
    return model


def grow_to(model: PeftModel, experts: object, seed: int | None) -> PeftModel:
    """Grow to a number of experts, of one for all layers or a list: as `grow`.

    Raises:
        UserError: it is not the same number more in every layer, or as `grow`.
    """
    now = mixture_config(model).experts
    pairs = zip(experts, now, strict=False) if isinstance(experts, list) and isinstance(now, list) else [(experts, now)]
    added = {new - old if isinstance(new, int) and isinstance(old, int) else 0 for new, old in pairs}
    count = added.pop() if len(added) == 1 else 0
    if count < 1 or _changed(now, count) != experts:
        raise UserError(
            f"experts={experts}: the trained mixture has {now}; give a larger number, as much larger in every layer. "
            "Its method and other options stay."
        )
    return grow(model, count, seed=seed)


@torch.no_grad()
def drop_expert(model: PeftModel, expert: int | str) -> PeftModel:
    """Remove one expert, by index (-1: the last) or by the name of its domain, from every layer; see `grow`.

    Raises:
        UserError: there is no such expert in every layer, or too few would be left.
    """
    config = mixture_config(model)
    index = _index(config, expert)
    left = _fewest(config.experts) - 1
    if left < (config.top_k or 1):
        raise UserError(f"expert={expert}: leaves {left} experts in a layer, and top_k={config.top_k} are chosen.")
    for mixture in _mixtures(model):
        for module, name, axis in expert_weights(mixture):
            weight = getattr(module, name)
            count = _experts_of(mixture)
            kept = torch.arange(count, device=weight.device) != index % count
            _replace(module, name, select_experts(weight, axis, count, kept))
        _count(mixture, -1)
    cast(MosldModel, model.base_model).pop_load()
    last = index if index < 0 or isinstance(config.experts, list) else index - config.experts
    config.grown = min(config.grown - (-config.grown <= last < 0), left - (config.top_k or 1))
    config.experts = _changed(config.experts, -1)
    if config.domains is not None:
        config.domains = [name for name in config.domains if name != config.domains[index]]
    return model


@torch.no_grad()
def replace_expert(
    model: PeftModel, expert: int | str, lora: str | Path | None = None, *, seed: int | None = None
) -> PeftModel:
    """Put a ready LoRA in the place of one expert; without one, drop the expert and grow a new one behind the others.

    The expert's row of the router stays with a LoRA.

    Raises:
        UserError: as `drop_expert` and `grow`.
    """
    config = mixture_config(model)
    index = _index(config, expert)
    if lora is not None:
        set_expert(model, index, _lora_for(model, lora))
        return model
    domains = [config.domains[index]] if config.domains else []
    return grow(drop_expert(model, expert), domains=domains, seed=seed)


def mixture_config(model: PeftModel) -> MosldConfig:
    """The config of the model's one active mixture.

    Raises:
        UserError: it has none.
    """
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    if not isinstance(config, MosldConfig):
        raise UserError(
            "the model carries no mixture of experts; mosld.adapt makes one, PeftModel.from_pretrained too."
        )
    return config


def _mixtures(model: PeftModel) -> list[nn.Module]:
    """The mixtures of the active adapter; single LoRAs beside them are none."""
    single = mixture_config(model).plain_modules
    layers = [module for module in model.modules() if isinstance(module, MixtureLayer)]
    return [layer.mosld_mixture[model.active_adapter] for layer in layers if layer.key.rpartition(".")[2] not in single]


def _experts_of(mixture: nn.Module) -> int:
    return next(module.experts for module in mixture.modules() if isinstance(module, ExpertBank))


def _count(mixture: nn.Module, added: int) -> None:
    for module in mixture.modules():
        if isinstance(module, ExpertBank):
            module.experts += added


def _new_rows(router: Router, name: str, count: int) -> Tensor:
    """Rows for new experts, as far from the mean of the trained rows as these are; of a single row, fresh ones.

    A new bias is 0.
    """
    if name == "bias" or router.weight is None:
        return torch.zeros(count)
    trained = router.weight.float()
    # A direction must be drawn, also where routers start at zero.
    init = "kaiming" if router.config.router_init == "zero" else router.config.router_init
    drawn = Router(trained.shape[1], count, dataclasses.replace(router.config, router_init=init))
    fresh = cast(Tensor, drawn.weight).to(trained)
    mean = trained.mean(0)
    spread = (trained - mean).norm(dim=1).mean()
    return mean + fresh * (spread / fresh.norm(dim=1, keepdim=True)) if spread > 0 else fresh


def _new_parts(bank: nn.Module, name: str, count: int) -> Tensor:
    """A, B or M of untrained experts; A or M is 0 where they share B, which is trained."""
    assert isinstance(bank, ExpertBank)
    # How sparse A is depends on the number of all experts.
    experts = count + (bank.experts if bank.config.init == "sparse" else 0)
    new = ExpertBank(bank.A.shape[1], len(bank.B), experts, bank.config)
    starts_at_zero = name == {"B": "A", "both": "M"}.get(bank.config.share, "B")
    part = getattr(new, name)[: count * bank.rank] if name != "B" else new.B[:, : count * bank.rank]
    return torch.zeros_like(part) if starts_at_zero else part


def _replace(module: nn.Module, name: str, weight: Tensor) -> None:
    if name in module._buffers:
        module.register_buffer(name, weight)
    else:
        setattr(module, name, nn.Parameter(weight, requires_grad=getattr(module, name).requires_grad))


def _fewest(experts: int | list[int]) -> int:
    return experts if isinstance(experts, int) else min(experts)


def _changed(experts: int | list[int], by: int) -> int | list[int]:
    return experts + by if isinstance(experts, int) else [number + by for number in experts]


def _index(config: MosldConfig, expert: int | str) -> int:
    names = config.domains or []
    index = names.index(expert) if expert in names else expert
    fewest = _fewest(config.experts)
    if not isinstance(index, int) or not -fewest <= index < fewest:
        experts = ", ".join(names) or f"0 to {fewest - 1}, or from the end -1 to -{fewest}"
        raise UserError(f"expert={expert}: is none of the experts that every layer has: {experts}.")
    return index


def _lora_for(model: PeftModel, folder: str | Path) -> LoraPairs:
    config = mixture_config(model)
    if config.share != "none" or config.router == "capacity" or config.plain_modules:
        raise UserError(
            f"{folder}: a LoRA can be an expert of moa, mola and molora alone, whose experts share no A and no B."
        )
    return fitting_lora(model, Path(folder))
