"""What an adapted model needs before its first step, on any device."""

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel

from mosld.model.casting import in_type


def ready_to_train(adapted: Any, checkpointing: bool, contexts: Callable[[], Any] | None = None) -> Any:
    """The model, float32 where its own weights train, and recomputing its layers in backward where asked for.

    Args:
        adapted: the model; it is changed in place, but for one that is shared among processes and trains as a whole.
        checkpointing: whether to recompute.
        contexts: makes the two contexts in which layers run and run again (`context_fn` of torch.utils.checkpoint).
    """
    if not isinstance(adapted, PeftModel):
        low = adapted.dtype if adapted.dtype != torch.float32 else None
        adapted = in_type(adapted, torch.float32, low)  # an update of 1e-5 is lost in a bfloat16 weight
        adapted.requires_grad_(True)
    if checkpointing:
        inner: Any = adapted.get_base_model() if isinstance(adapted, PeftModel) else adapted
        inner.enable_input_require_grads()
        options = {"use_reentrant": False} | ({"context_fn": contexts} if contexts else {})
        inner.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    return adapted
