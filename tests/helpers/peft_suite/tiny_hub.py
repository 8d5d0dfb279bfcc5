"""Tiny random models in a folder, under the names by which PEFT's tests ask the Hugging Face Hub for them.

`from_pretrained("owner/name")` takes a folder of that relative path before it asks the hub.
"""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "this", "is", "a", "test", "prompt", "hello"]
TOKENS = {"vocab_size": 1200, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128, "initializer_range": 0.2}
DEEP = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 132}
GATED = DEEP | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2}
ENCODER = DEEP | {"intermediate_size": 48, "type_vocab_size": 2}
BART = {f"{side}_{part}": 4 for side in ("encoder", "decoder") for part in ("layers", "attention_heads")}

# The names in PEFT's files: the class of the model, the type of its config, and its sizes.
MODELS = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": (
        "OPTForCausalLM",
        "opt",
        DEEP | {"word_embed_proj_dim": 32, "ffn_dim": 48, "init_std": 0.2},
    ),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("GPT2LMHeadModel", "gpt2", GPT),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": ("GPTJForCausalLM", "gptj", GPT | {"rotary_dim": 4}),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", "llama", GATED),
    "peft-internal-testing/tiny-dummy-qwen2": ("Qwen2ForCausalLM", "qwen2", GATED),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": ("Gemma3ForCausalLM", "gemma3_text", GATED),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": (
        "BertForSequenceClassification",
        "bert",
        ENCODER,
    ),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": (
        "RobertaForSequenceClassification",
        "roberta",
        ENCODER,
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": (
        "LlamaForSequenceClassification",
        "llama",
        GATED,
    ),
    "peft-internal-testing/tiny-random-BertModel": ("BertModel", "bert", ENCODER),
    "peft-internal-testing/tiny-random-RobertaModel": ("RobertaModel", "roberta", ENCODER),
    "peft-internal-testing/tiny-random-DebertaModel": ("DebertaModel", "deberta", ENCODER),
    "peft-internal-testing/tiny-random-DebertaV2Model": ("DebertaV2Model", "deberta-v2", ENCODER),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": (
        "BartForConditionalGeneration",
        "bart",
        BART | {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 132},
    ),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": (
        "T5ForConditionalGeneration",
        "t5",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 4, "num_heads": 4, "decoder_start_token_id": 0},
    ),
}


def make_hub(folder: Path) -> None:
    """Save all models with a tokenizer."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    for name, (kind, model_type, sizes) in MODELS.items():
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(model_type, **TOKENS | sizes)
        getattr(transformers, kind)(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
