"""Attention kernels, registered with transformers under names of our own: each also accepts packed rows.

The keyword argument `groups` reaches every attention block and says where the packed rows are (packed_attention.py).
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from mosld.models.packed_attention import Kernel, RowGroup, attend_by_row, eager_rows

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SDPA_MIN_TOKENS = 128  # without gradients, sdpa is faster than eager on CPU from here on
PACKABLE_MODELS = ("llama", "mistral", "qwen2", "qwen3")  # they pass `groups` on, and mix tokens in attention alone

registered_kernels: set[str] = set()


def resolve_attention(name: str, shape: "PretrainedConfig | None" = None) -> str | None:
    """The name under which transformers knows a kernel; auto is sdpa on CUDA, and by the length of the pass on CPU.

    Args:
        shape: of the model. One whose attention takes no other kernels (Bloom, Falcon, GPT-J) keeps transformers' own,
            and for auto those that transformers chooses, which is None.
    """
    model = None if shape is None else MODEL_FOR_CAUSAL_LM_MAPPING.get(type(shape), None)
    if not getattr(model, "_supports_attention_backend", True):
        return None if name == "auto" else name
    if name == "auto":
        # Gemma 2 caps its logits, which sdpa does not.
        on_device = "sdpa" if getattr(model, "_supports_sdpa", True) else "eager"
        name = on_device if torch.cuda.is_available() else "by_length"
    return f"mosld_{name}"


def packs_rows(model: "PreTrainedModel") -> bool:
    """Whether a model accepts packed rows, by its type and its kernel."""
    config = model.config
    return config.model_type in PACKABLE_MODELS and config._attn_implementation in registered_kernels


def eager(module: nn.Module, *inputs: Tensor | None, **options: object) -> tuple[Tensor, Tensor | None]:
    """The plain kernel that transformers has for the type of model that `module` belongs to."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *inputs, **options)


def by_length(module: nn.Module, q: Tensor, *inputs: Tensor | None, **options: object) -> tuple[Tensor, Tensor | None]:
    """The fastest kernel on CPU: eager, and sdpa in long passes without gradients.

    Forward and backward together, eager is faster up to 512 tokens: a training step of the small model took 0.75 of
    the time with sdpa. Forward alone, sdpa takes half of eager's time from 128 tokens on.
    """
    kernel: Kernel = eager
    # sdpa has no soft cap of the logits (Gemma 2).
    if not torch.is_grad_enabled() and q.shape[-2] >= SDPA_MIN_TOKENS and options.get("softcap") is None:
        kernel = sdpa_attention_forward
    return kernel(module, q, *inputs, **options)


def mask_of_sdpa(*args: Any, **kwargs: Any) -> Tensor | None:
    """The mask that transformers makes for sdpa; a training step on a device does not wait to know whether it has pads.

    transformers leaves out a mask without pads, and reads the mask on the host to know.
    """
    if torch.is_grad_enabled() and isinstance(mask := kwargs.get("attention_mask"), Tensor) and not mask.is_cpu:
        kwargs["allow_is_causal_skip"] = False
    return sdpa_mask(*args, **kwargs)


def register(name: str, batched: Kernel, by_row: Kernel, mask: Callable[..., Tensor | None]) -> str:
    """Make a kernel known to transformers.

    Args:
        name: the name of the kernel in transformers.
        batched: attention over batches of sequences.
        by_row: causal attention over the padded rows of one group of a packed sequence.
        mask: makes the masks for `batched`.

    Returns:
        The name.
    """
    AttentionInterface.register(name, partial(_attend, batched=batched, by_row=by_row))
    AttentionMaskInterface.register(name, mask)
    registered_kernels.add(name)
    return name


def _attend(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    batched: Kernel,
    by_row: Kernel,
    groups: Sequence[RowGroup] | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    if groups is None:
        return batched(module, q, k, v, mask, **options)
    return attend_by_row(module, q, k, v, groups=groups, kernel=by_row, **options)


register("mosld_eager", eager, eager_rows, eager_mask)
register("mosld_by_length", by_length, eager_rows, eager_mask)
register("mosld_sdpa", sdpa_attention_forward, sdpa_attention_forward, mask_of_sdpa)
