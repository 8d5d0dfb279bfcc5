"""A model of random weights and a byte tokenizer: runs in seconds, fetches nothing. For tests and debugging."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from mosld.config.schema import ModelConfig
from mosld.models.config import transformers_config

SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def random_model(config: ModelConfig, dtype: torch.dtype, attn_implementation: str) -> Any:
    """A model of the config's shape; its weights are the same in every process and leave the caller's RNG alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(transformers_config(config), attn_implementation=attn_implementation)
    for parameter in model.parameters():  # not the buffers, as a checkpoint is loaded
        parameter.data = parameter.data.to(dtype)
    return model


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, then four special tokens: 260 in all."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, *SPECIAL.values()])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)
