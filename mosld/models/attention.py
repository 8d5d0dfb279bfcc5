"""Attention kernels, under names of our own that transformers knows: each also takes packed rows.

The keyword argument `groups` reaches every attention block and says where packed rows lie (packed_attention.py).
"""

import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from mosld.models.packed_attention import Kernel, attend_by_row, eager_rows

LONG = 128  # tokens of a pass from which sdpa wins on a processor, where no gradient is wanted
PACKED = ("llama", "mistral", "qwen2", "qwen3")  # types of model that hand `groups` on, and mix tokens nowhere else


def resolve_attention(name: str) -> str:
    """The name that transformers knows a kernel by; auto is sdpa on an accelerator, and on a processor by the pass."""
    if name == "auto":
        name = "sdpa" if torch.cuda.is_available() else "by_length"
    return f"mosld_{name}"


def packs_rows(model: Any) -> bool:
    """Whether a transformers model takes packed rows, by its type and its kernel."""
    return model.config.model_type in PACKED and model.config._attn_implementation in REGISTERED


def eager(module: Any, *given: Any, **more: Any) -> Any:
    """The plain kernel that transformers has for a type of model."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *given, **more)


def by_length(module: Any, q: Tensor, *given: Any, **more: Any) -> Any:
    """What a processor does best: eager, and sdpa in long passes without gradients.

    Forward and backward together, eager attention is the faster one up to 512 tokens: a training step of the small
    model took 0.75 of sdpa's time. Forward alone, sdpa takes half of eager's time from 128 tokens on.
    """
    kernel = eager if torch.is_grad_enabled() or q.shape[-2] < LONG else sdpa_attention_forward
    return kernel(module, q, *given, **more)


def _attend(
    module: Any, *given: Any, whole: Kernel, by_row: Kernel, groups: Any = None, **more: Any
) -> tuple[Tensor, Tensor | None]:
    """Transformers' interface to a kernel: `whole` for batches of sequences, `by_row` for packed rows."""
    if groups is None:
        return whole(module, *given, **more)
    q, k, v, _ = given
    return attend_by_row(module, q, k, v, groups=groups, kernel=by_row, **more)


REGISTERED = set[str]()


def register(name: str, whole: Kernel, by_row: Kernel, mask: Any) -> str:
    """Make a kernel known to transformers, with the function that makes its masks; returns the name."""
    AttentionInterface.register(name, partial(_attend, whole=whole, by_row=by_row))
    AttentionMaskInterface.register(name, mask)
    REGISTERED.add(name)
    return name


register("mosld_eager", eager, eager_rows, eager_mask)
register("mosld_by_length", by_length, eager_rows, eager_mask)
register("mosld_sdpa", sdpa_attention_forward, sdpa_attention_forward, sdpa_mask)
