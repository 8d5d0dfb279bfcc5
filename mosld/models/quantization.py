"""A base in 4 or 8 bits by bitsandbytes, frozen; the adapter on it is in full precision (QLoRA, Dettmers et al. 2023).

The linear layers are packed, the head and the embeddings are not.
"""

import tempfile
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from mosld.common.errors import UserError

BLOCK = 64  # weights that share a constant


def quantisation(name: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """The library's config of nf4 (with its constants quantised once more) or int8; products are in `dtype`."""
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def quantised_copy(model: Any, name: str, kind: dict[str, Any]) -> Any:
    """A model of random weights in 4 or 8 bits. Packing happens while weights are read, so they are written first."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        packed = quantisation(name, kind["dtype"])
        made = AutoModelForCausalLM.from_pretrained(folder, quantization_config=packed, **kind)
    made.name_or_path = made.config.name_or_path = model.name_or_path  # not that of a folder which is gone
    return made


def keep_packing(model: Any) -> Any:
    """Forbid bitsandbytes to repack a layer for the processor at the first pass in eval mode.

    It rounds the layer's constants once more on the way: the weights that are scored would not be those trained on, and
    would differ from machine to machine.

    Raises:
        UserError: rows on which bitsandbytes 0.50.2 computes wrongly on a processor.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
            if module.weight.device.type == "cpu" and module.in_features % BLOCK:
                raise UserError(
                    f"model.quantize=nf4: a layer takes {module.in_features} inputs, and on a processor bitsandbytes "
                    f"is right for multiples of {BLOCK} alone; use model.quantize=int8."
                )
    return model


def weights_of(parameter: torch.nn.Parameter) -> int:
    """How many weights a parameter holds: packed, two lie in a byte."""
    state = getattr(parameter, "quant_state", None)
    return getattr(parameter, "ds_numel", parameter.numel()) if state is None else state.shape.numel()
