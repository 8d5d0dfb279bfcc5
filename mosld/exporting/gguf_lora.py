"""A plain LoRA as a GGUF file, as llama.cpp's convert_lora_to_gguf.py lays it out."""

from pathlib import Path

import gguf
from torch import Tensor
from transformers import PretrainedConfig

from mosld.common.errors import UserError, nearest
from mosld.exporting.plain_lora import Updates, rank_of

# By transformers' model type. llama.cpp has one architecture for Llama and Mistral.
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}


def check_architecture(model_type: str) -> None:
    """Refuse a base whose layers have other names or another layout in GGUF than is known here."""
    if model_type not in ARCHITECTURES:
        raise UserError(
            f"as=gguf: a base of type {model_type} is not supported; {nearest(model_type, ARCHITECTURES)} Or export "
            "as=lora, and convert that with llama.cpp's convert_lora_to_gguf.py."
        )


def write_gguf(updates: Updates, config: PretrainedConfig, name: str, file: Path) -> None:
    """Write the LoRA.

    Args:
        updates: in float32, all of one rank.
        name: of the adapter, for the file's metadata.
    """
    check_architecture(config.model_type)
    architecture = ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # llama.cpp multiplies the update by alpha / rank.
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank_of(updates)))
    for key, (A_RI, B_OR) in updates.items():
        tensor = names.get_name(f"{key}.weight", try_suffixes=(".weight",))
        if tensor is None:
            raise UserError(f"as=gguf: {key} has no name in GGUF; export as=lora.")
        if architecture == gguf.MODEL_ARCH.LLAMA:
            B_OR = _rotary_order(key, B_OR, config)
        for part, factor in (("lora_a", A_RI), ("lora_b", B_OR)):
            writer.add_tensor(f"{tensor}.{part}", factor.cpu().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rotary_order(key: str, B_OR: Tensor, config: PretrainedConfig) -> Tensor:
    """The rows of a query or key projection in GGUF's order.

    Transformers rotates the first half of a head's numbers with the second, llama.cpp's Llama each with its neighbour.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.rpartition(".")[2])
    if heads is None:
        return B_OR
    return B_OR.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(B_OR.shape)
