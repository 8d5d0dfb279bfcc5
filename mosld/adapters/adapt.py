"""From a method's config to an adapted model."""

from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model

from mosld.adapters.config import MosldConfig
from mosld.config import AllocationConfig, MethodConfig, UserError
from mosld.config.parts import method_config

TARGETS = {
    "qv": ["q_proj", "v_proj"],
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "ffn": ["gate_proj", "up_proj", "down_proj"],
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def adapt(
    model: Any,
    method: str = "mosld",
    *,
    allocation: str | int | list[int] = "triangle",
    seed: int | None = None,
    **options: Any,
) -> PeftModel:
    """Wrap a transformers model with the adapter of any method.

    Args:
        model: a causal language model; it is changed in place, its weights are frozen.
        method: a name of conf/method.
        allocation: a name of conf/allocation, one number of experts, or a list stretched over the depth.
        seed: seed of the initial weights; None: the global RNG as it stands.
        options: keys of the config's method group: rank, alpha, top_k, dropout, targets, share, ...

    Raises:
        UserError: an unknown method or option, or a combination that cannot work.
    """
    config, shape = method_config(method, allocation, options)
    return adapt_with(model, config, shape, seed)


def adapt_with(model: Any, method: MethodConfig, allocation: AllocationConfig, seed: int | None) -> PeftModel:
    """As `adapt`, from checked configs."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    missing = [target for target in TARGETS[method.targets] if target not in names]
    if missing:
        raise UserError(f"method.targets={method.targets}: the model has no layer called {', '.join(missing)}.")
    if seed is not None:
        torch.manual_seed(seed)
    try:
        return get_peft_model(model, peft_config(method, allocation))
    except ValueError as error:  # PEFT names a missing target, the tuner a shape that does not fit
        raise UserError(f"method={method.name}: {error}") from error


def peft_config(method: MethodConfig, allocation: AllocationConfig) -> PeftConfig:
    """The PEFT config of a method."""
    targets = TARGETS[method.targets]
    if method.kind == "lora":
        return LoraConfig(
            r=method.rank,
            lora_alpha=int(method.alpha) if method.alpha.is_integer() else method.alpha,  # type: ignore[arg-type]
            lora_dropout=method.dropout,
            target_modules=targets,
            init_lora_weights="gaussian" if method.init == "gaussian" else True,
            task_type="CAUSAL_LM",
        )
    assert method.top_k is not None
    assert method.share is not None  # rules of the config
    return MosldConfig(
        r=method.rank,
        alpha=method.alpha,
        experts=allocation.experts,
        top_k=method.top_k,
        share=method.share,
        dropout=method.dropout,
        dropout_on=method.dropout_on,
        init=method.init,
        balance=method.balance,
        balance_weight=method.balance_weight,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
