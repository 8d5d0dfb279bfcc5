"""A frozen base in 4 or 8 bits by bitsandbytes; the adapter on it keeps full precision (QLoRA, Dettmers et al. 2023).

The linear layers are quantized, the head and the embeddings are not.
"""

import tempfile

import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from mosld.common.errors import UserError

BLOCK_WEIGHTS = 64  # weights that share a quantization constant


def quantization_config(name: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """The config of nf4 (with its constants quantized once more) or int8; products are computed in `dtype`."""
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def quantized_copy(
    model: PreTrainedModel, name: str, dtype: torch.dtype, attn_implementation: str | None
) -> PreTrainedModel:
    """A model of random weights in 4 or 8 bits. bitsandbytes quantizes while it reads, so weights are saved first."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        copy = AutoModelForCausalLM.from_pretrained(
            folder,
            quantization_config=quantization_config(name, dtype),
            dtype=dtype,
            attn_implementation=attn_implementation,
        )
    # Not that of the folder, which no longer exists.
    copy.name_or_path = copy.config.name_or_path = model.name_or_path
    return copy


def keep_packing(model: PreTrainedModel) -> PreTrainedModel:
    """Keep bitsandbytes from repacking layers for CPU at the first pass in eval mode.

    Repacking rounds a layer's constants once more: the weights that are scored would not be those trained on, and
    would differ from machine to machine.

    Raises:
        UserError: layer sizes for which bitsandbytes 0.50.2 computes wrong results on CPU.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 (nn.Module declares no such attribute)
            if module.weight.device.type == "cpu" and module.in_features % BLOCK_WEIGHTS:
                raise UserError(
                    f"model.quantize=nf4: a layer takes {module.in_features} inputs, and on CPU bitsandbytes computes "
                    f"correctly only for multiples of {BLOCK_WEIGHTS}; use model.quantize=int8."
                )
    return model


def count_weights(parameter: nn.Parameter) -> int:
    """Weights in a parameter; in 4 bits a byte holds two of them."""
    state = getattr(parameter, "quant_state", None)
    return getattr(parameter, "ds_numel", parameter.numel()) if state is None else state.shape.numel()
