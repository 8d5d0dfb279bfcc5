"""A model with the rows of each training step, and a method on it, ready for these steps.

The model is one of conf/model, or layers of its dimensions at random weights.
"""

import argparse
import copy
from collections.abc import Sequence
from typing import Any

import torch
from side_by_side import DEVICE
from torch import nn
from transformers import AutoModelForCausalLM

import mosld
from mosld.config.compose import load_config
from mosld.config.groups import model_config
from mosld.config.schema import TrainingConfig
from mosld.data.dataset import load_dataset
from mosld.data.mixing import Order
from mosld.data.rows import Row
from mosld.data.tokens.encoding import Example, answer_tokens, encode_train
from mosld.data.tokens.prompts import PromptEncoder
from mosld.distributed.processes import processes
from mosld.models.attention import resolve_attention
from mosld.models.config import transformers_config
from mosld.models.load import resolve_dtype
from mosld.training.compile import compile_layers
from mosld.training.optim import make_optimizer
from mosld.training.step import Stepper

VOCABULARY = 256  # a small head, so that the layers are compared
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"dropout": 0.0, "dropout_on": "none"}),
    "lora+dropout": ("lora", {}),
    "lora+ffn": ("lora", {"dropout": 0.0, "dropout_on": "none", "targets": "ffn"}),
    "mixlora": ("mixlora", {"plain_targets": "none"}),
}


def add_model(parser: argparse.ArgumentParser, length: int = 256) -> None:
    """The options that `model_and_steps` reads."""
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--layers", type=int, help="so many layers of the model's dimensions, with random weights")
    parser.add_argument("--length", type=int, default=length, help="tokens of a row, with --layers")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="of the head, with --layers")


def model_and_steps(flags: argparse.Namespace, size: int, *overrides: str) -> tuple[Any, Any, list[list[Example]]]:
    """The base, its tokenizer, and the `size` rows of each round; with --layers no tokenizer, and random tokens."""
    if flags.layers:
        base = base_layers(flags.layers, flags.model, vocabulary=flags.vocabulary)
        return base, None, [rows(size, flags.length)] * (flags.rounds + 1)
    base, tokenizer = mosld.load_base(flags.model)
    return base.to(DEVICE), tokenizer, rows_of_steps(flags.model, tokenizer, size, flags.rounds + 1, *overrides)


def rows_of_steps(model: str, tokenizer: Any, size: int, steps: int, *overrides: str) -> list[list[Example]]:
    """The rows of each step; without overrides out of the bundled mixture."""
    config = load_config([f"model={model}", *(overrides or ("data=mixture", "source=bundled"))])
    encoder = PromptEncoder(tokenizer, config.model.prompt)
    examples = encode_train(load_dataset(config.data, config.source).train, encoder, tokenizer.eos_token_id).examples
    order = Order((len(examples),), (len(examples),), size, seed=0)
    return [[examples[i] for i in order.rows(step)] for step in range(steps)]


def base_layers(
    count: int, model: str = "llama2_7b", dtype: torch.dtype | None = None, vocabulary: int = VOCABULARY
) -> Any:
    """The first layers of a model's shape with sdpa attention, in the dtype that its config resolves to here."""
    config = transformers_config(model_config(model, {}))
    config.num_hidden_layers, config.vocab_size, config.pad_token_id = count, vocabulary, None
    with DEVICE:
        return AutoModelForCausalLM.from_config(
            config, attn_implementation=resolve_attention("sdpa"), dtype=dtype or resolve_dtype("auto")
        )


def shared_copy(base: Any) -> Any:
    """A copy of a model with the same weights, so that it takes no memory."""
    return copy.deepcopy(base, {id(weight): weight for weight in base.parameters()})


def stepper(base: Any, method: str, pad: int = 0, compiled: bool = False, **options: Any) -> Stepper:
    """The method on a copy of `base` that shares its frozen weights."""
    adapted = mosld.adapt(shared_copy(base), method, seed=0, **options)
    if compiled:
        compile_layers(adapted)
    optimizer = make_optimizer(adapted, TrainingConfig())
    return Stepper(adapted, optimizer, processes=processes(), pad_token_id=pad, max_norm=1.0)


def rows(count: int, length: int) -> list[Example]:
    """Rows of random tokens; half of each is the answer."""
    return rows_of_lengths([length] * count)


def rows_of_lengths(lengths: Sequence[int], seed: int = 0) -> list[Example]:
    """Rows of random tokens of these lengths; half of each is the answer."""
    generator = torch.Generator().manual_seed(seed)
    row = Row("arc_e", "row", "", "?", ("a", "b"), 0)
    tokens = torch.randint(1, VOCABULARY, (sum(lengths),), generator=generator).split(list(lengths))
    return [Example(row, ids.tolist(), len(ids) // 2) for ids in tokens]


def useful_operations(model: nn.Module, examples: list[Example]) -> int:
    """Operations that a step cannot do without: 4 a frozen weight and token, the head at answers alone."""
    sizes = {name: m.weight.numel() for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    layers = sum(
        count for name, count in sizes.items() if ".layers." in name and "mosld" not in name and "lora" not in name
    )
    head = sum(count for name, count in sizes.items() if name.endswith("lm_head"))
    return 4 * (layers * sum(len(e.tokens) for e in examples) + head * answer_tokens(examples))
