"""Which of transformers' attention kernels a model takes."""

from typing import Any

import torch

LONG = 128  # tokens of a pass from which sdpa wins on a processor, where no gradient is wanted


def resolve_attention(name: str) -> str:
    """The attention kernel; auto is sdpa on an accelerator and eager on a processor.

    A training step of the small model on two cores took 0.75 of sdpa's time with eager attention.
    """
    if name != "auto":
        return name
    return "sdpa" if torch.cuda.is_available() else "eager"


def by_length(model: Any) -> Any:
    """Have a model with eager attention take sdpa's in long passes without gradients, as a processor does best.

    Forward and backward together, eager attention is the faster one up to 512 tokens; forward alone, sdpa's takes half
    of its time from 128 tokens on.
    """
    if model.config._attn_implementation == "eager" and model._supports_sdpa:
        model.register_forward_pre_hook(_before, with_kwargs=True)
        model.register_forward_hook(_after, always_call=True)
    return model


def as_in(model: Any, source: Any) -> Any:
    """Have a model choose its kernel as another does whose copy it is."""
    return by_length(model) if _before in source._forward_pre_hooks.values() else model


def _before(model: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
    tokens = args[0] if args else given.get("input_ids")
    if tokens is not None and tokens.shape[-1] >= LONG and not torch.is_grad_enabled():
        model.config._attn_implementation = "sdpa"


def _after(model: Any, *_: Any) -> None:
    model.config._attn_implementation = "eager"
