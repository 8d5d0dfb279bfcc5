"""A model of random weights and a byte tokenizer for tests and debugging: ready in seconds, without a download."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from mosld.config.schema import ModelConfig
from mosld.models.config import transformers_config

SPECIAL_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def random_model(config: ModelConfig, dtype: torch.dtype, attn_implementation: str | None) -> PreTrainedModel:
    """A model of the config's shape; its weights are the same in every process, and the global RNG is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(transformers_config(config), attn_implementation=attn_implementation)
    # As when a checkpoint is loaded, buffers keep their dtype.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte and four special tokens: 260 in all."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, *SPECIAL_TOKENS.values()])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)
