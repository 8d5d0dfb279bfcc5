"""From a method's config to an adapted model."""

from collections.abc import Sequence
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    get_peft_model,
    initialize_kv_prefix_from_past_key_values,
)

from mosld.adapters.config import MosldConfig
from mosld.common.errors import UserError
from mosld.config.groups import method_config
from mosld.config.method_checks import experts_of
from mosld.config.schema import AllocationConfig, MethodConfig

# PART: From a method's config to an adapted model.


TARGETS = {
    "none": [],
    "qv": ["q_proj", "v_proj"],
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "ffn": ["gate_proj", "up_proj", "down_proj"],
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "block": ["mlp"],
}


def adapt(
    model: Any,
    method: str = "mosld",
    *,
    allocation: str | int | list[int] | None = None,
    seed: int | None = None,
    **options: Any,
) -> Any:
    """Make a transformers model trainable by any method.

    Args:
        model: a causal language model; it is changed in place, its weights are frozen (with "full" they train).
        method: a name of conf/method.
        allocation: a name of conf/allocation, one number of experts, or a list stretched over the depth; None: the
            method's own number where it has one, else triangle.
        seed: seed of the initial weights; None: the global RNG as it stands.
        options: keys of the config's method group: rank, alpha, top_k, dropout, targets, share, ... A mixture of
            domains (method "moa") needs `domains`, the names of its experts.

    Returns:
        A PeftModel; with "full" the model itself.

    Raises:
        UserError: an unknown method or option, or a combination that cannot work.
    """
    config, shape = method_config(method, allocation, options)
    return adapt_with(model, config, shape, seed)


def adapt_with(model: Any, method: MethodConfig, allocation: AllocationConfig, seed: int | None) -> Any:
    """As `adapt`, from checked configs."""
    if method.kind == "full":
        return model.requires_grad_(True)
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    wanted = [] if method.kind == "prefix" else _targets(method)
    missing = [target for target in wanted if target not in names]
    if missing:
        raise UserError(f"method.targets={method.targets}: the model has no layer called {', '.join(missing)}.")
    if seed is not None:
        torch.manual_seed(seed)
    try:
        adapted = get_peft_model(model, peft_config(method, allocation))
    except ValueError as error:  # PEFT names a missing target, the tuner a shape that does not fit
        raise UserError(f"method={method.name}: {error}") from error
    if method.kind == "prefix" and adapted.device.type != "meta":
        _begin_with_words(adapted, method.virtual_tokens)
    return adapted


@torch.no_grad()
def _begin_with_words(adapted: Any, count: int) -> None:
    """Let the prefix begin as the keys and values of `count` words of the vocabulary (Li and Liang 2021, section 7.4).

    PEFT's own N(0, 1) is far from what a model makes: SmolLM2-135M began at a loss of 12.5 and stayed below the
    untrained model.
    """
    base = adapted.get_base_model()
    words = torch.randint(base.config.get_text_config().vocab_size, (1, count)).to(adapted.device)
    cache = base(input_ids=words, use_cache=True, logits_to_keep=1).past_key_values
    initialize_kv_prefix_from_past_key_values(adapted, past_key_values=cache)


def peft_config(method: MethodConfig, allocation: AllocationConfig) -> PeftConfig:
    """The PEFT config of a method.

    Raises:
        UserError: a mixture of domains whose domains have no names.
    """
    if method.kind == "lora":
        return lora_config(method)
    if method.kind == "prefix":
        return PrefixTuningConfig(num_virtual_tokens=method.virtual_tokens, task_type="CAUSAL_LM")
    assert method.share is not None  # rules of the config
    assert method.router is not None
    experts = experts_of(method, allocation)
    if method.router == "domain":
        if not method.domains:
            raise UserError(f"method={method.name}: name its experts, as in domains=['obqa', 'csqa'].")
        experts = len(method.domains)
    return MosldConfig(
        r=method.rank,
        alpha=method.alpha,
        experts=experts,
        router=method.router,
        top_k=method.top_k,
        share=method.share,
        dropout=method.dropout,
        dropout_on=method.dropout_on,
        init=method.init,
        router_init=method.router_init,
        capacity_factor=method.capacity_factor,
        gate_dropout=method.gate_dropout,
        balance=method.balance,
        balance_weight=method.balance_weight,
        domains=method.domains,
        pool=method.pool,
        inference=method.inference,
        router_weight=method.router_weight,
        target_modules=_targets(method),
        single_lora_modules=TARGETS[method.plain_targets],
        task_type="CAUSAL_LM",
    )


def lora_config(method: MethodConfig) -> LoraConfig:
    """PEFT's own LoRA with the rank, alpha, dropout and targets of a method."""
    return LoraConfig(
        r=method.rank,
        lora_alpha=int(method.alpha) if method.alpha.is_integer() else method.alpha,  # type: ignore[arg-type]
        lora_dropout=method.dropout,
        target_modules=_targets(method),
        init_lora_weights="gaussian" if method.init == "gaussian" else True,
        task_type="CAUSAL_LM",
    )


def _targets(method: MethodConfig) -> list[str]:
    return [*TARGETS[method.targets], *TARGETS[method.plain_targets]]


# PART: How many experts each layer has (MoLA, Gao et al. 2024; MoSLD section 4.3): a shape stretched over any
# depth.


def experts_per_layer(shape: int | Sequence[int], depth: int) -> list[int]:
    """Experts of each layer from the first to the last.

    Args:
        shape: one number for all layers, or numbers for equal parts of the depth: [8, 6, 4, 2] gives the first
            quarter of the layers 8 experts each.
        depth: number of layers.

    Raises:
        ValueError: the shape has more parts than the model has layers.
    """
    if isinstance(shape, int):
        return [shape] * depth
    if len(shape) > depth:
        raise ValueError(f"allocation.experts={list(shape)} has {len(shape)} parts, the model only {depth} layers")
    return [shape[layer * len(shape) // depth] for layer in range(depth)]
