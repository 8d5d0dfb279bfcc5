"""Time and memory of a training step without each of the choices that were made for speed.

    python benchmarks/before_after.py [--method mosld] [--rounds 5] [--json FILE]        # the small model
    python benchmarks/before_after.py --model llama2_7b --layers 2 --rows 4              # layers of its dimensions
    python benchmarks/before_after.py --method mola --ways "torch's dropout,linear and autograd"

Every way takes the same steps in turn in one process; a ratio is that of a step without the choice to one as it is.
`memory` is what a step holds at its peak: weights, gradients, AdamW's moments, and what autograd keeps for backward.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from side_by_side import arguments, in_turn, ratio, report
from torch import Tensor
from torch.nn.functional import linear
from wide_layers import CASES, add_model, model_and_steps, stepper

from mosld.adapters.kernels.fused_linear import MaskedWeight
from mosld.common.process import silence_libraries
from mosld.data.tokens.encoding import Example
from mosld.training.batching import IGNORED, BatchBuilder, pack
from mosld.training.step import Stepper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.helpers.counting import saved_bytes

Way = Callable[[], AbstractContextManager[Any]]
ADAPTERS = "mosld.adapters"


def every_token(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """As `pack`, with the logits of all tokens and labels for the same ones."""
    batch = pack(examples)
    labels = torch.full_like(batch["input_ids"], IGNORED)
    labels[0, batch.pop("logits_to_keep")] = batch.pop("labels")[0]
    return batch | {"labels": labels, "shift_labels": labels}


@contextmanager
def padded(layout: BatchBuilder, alike: bool) -> Iterator[None]:
    """Padded micro-batches: of rows of like length, or of all rows as allowed in one pass."""
    before = layout.packed, layout.overhead
    layout.packed, layout.overhead = False, layout.overhead if alike else 10**9
    yield
    layout.packed, layout.overhead = before


@contextmanager
def sdpa(model: Any) -> Iterator[None]:
    """The model with that attention."""
    model.config._attn_implementation, before = "mosld_sdpa", model.config._attn_implementation
    yield
    model.config._attn_implementation = before


def all_of(*patches: Any) -> AbstractContextManager[Any]:
    """Several patches at once."""
    stack = ExitStack()
    for each in patches:
        stack.enter_context(each)
    return stack


def bernoulli(dtype: torch.dtype) -> Callable[[Tensor, float], Tensor]:
    """The plain twin of `keep_mask`: the mask as torch's dropout draws it, int8 beside the fused linear layers."""
    return lambda like, p: torch.empty(like.shape, dtype=dtype, device=like.device).bernoulli_(1 - p)


def plain_linear(x: Tensor, weights: Sequence[MaskedWeight]) -> list[Tensor]:
    """The plain twin of `fused_linear`."""
    wide = x.to(weights[0][0].dtype)
    return [linear(wide if mask is None else wide * mask, weight) for weight, mask in weights]


def step_ways(taken: Stepper) -> dict[str, Way]:
    """A step as it is, and without each of the choices of the trainer and the model."""
    return {
        "as it is": nullcontext,
        "logits of every token": lambda: patch("mosld.training.batching.pack", every_token),
        "padded beside rows of like length": lambda: padded(taken.batches, alike=True),
        "padded in one pass": lambda: padded(taken.batches, alike=False),
        "sdpa attention": lambda: sdpa(taken.model),
    }


def kernel_ways() -> dict[str, Way]:
    """The plain twin of each speed-up in mosld/adapters/kernels."""

    def torch_dropout(dtype: torch.dtype = torch.int8) -> AbstractContextManager[Any]:
        return patch(f"{ADAPTERS}.bank.keep_mask", bernoulli(dtype))

    def torch_linear() -> AbstractContextManager[Any]:
        return all_of(*(patch(f"{ADAPTERS}.{module}.fused_linear", plain_linear) for module in ("bank", "layers")))

    return {
        "torch's dropout": torch_dropout,
        "linear and autograd": torch_linear,
        "linear and torch's dropout": lambda: all_of(torch_dropout(torch.float32), torch_linear()),
        "dense sum over experts": lambda: patch(f"{ADAPTERS}.bank.use_grouped_mm", lambda *_: False),
        "torch's sum over slots": lambda: all_of(
            patch(f"{ADAPTERS}.layers.expand_slots", lambda x, slots: x.expand(slots, *x.shape)),
            patch(f"{ADAPTERS}.layers.sum_slots", lambda x: x.sum(0)),
        ),
    }


def memory(taken: Stepper, examples: Sequence[Example]) -> int:
    """Bytes that a step holds at its peak: all weights, gradients and moments, and what autograd keeps."""
    model = taken.model
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    with saved_bytes(model) as kept:
        taken.engine.forward(**taken.batches.inputs(examples), use_cache=False)
    return weights + 3 * trained + kept[0]


def main() -> None:
    parser = arguments(__doc__)
    add_model(parser)
    parser.add_argument("--method", default="mosld")
    parser.add_argument("--experts", type=int, help="in every layer")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--ways", help="some of the ways, by name")
    options = parser.parse_args()
    silence_libraries()
    method, settings = CASES.get(options.method, (options.method, {}))
    settings = settings | ({"rank": options.rank} if options.rank else {})
    if options.experts:
        settings = settings | {"experts" if method == "mixlora" else "allocation": options.experts}
    base, tokenizer, steps = model_and_steps(options, options.rows)
    taken = stepper(base, method, tokenizer.pad_token_id if tokenizer else 0, **settings)
    ways = step_ways(taken) | kernel_ways()
    if options.ways:
        ways = {way: ways[way] for way in ("as it is", *options.ways.split(","))}

    def step(way: str) -> Callable[[int], None]:
        def one(number: int) -> None:
            with ways[way]():
                taken.step(steps[number], options.rows, 0.0, number)

        return one

    seconds = in_turn({way: step(way) for way in ways}, options.rounds)
    lines = []
    for way, times in seconds.items():
        with ways[way]():
            bytes_held = memory(taken, taken.batches.split(steps[-1], options.rows)[0])
        line = {"way": way, "seconds": sorted(times)[len(times) // 2], **ratio(times, seconds["as it is"])}
        lines.append(line | {"memory": bytes_held / (lines[0]["bytes"] if lines else bytes_held), "bytes": bytes_held})
    tokens = sum(len(row.tokens) for step_rows in steps[1:] for row in step_rows) / options.rounds
    where = f"{options.layers} layers of {options.model}" if options.layers else options.model
    title = f"A step of {where} with {options.method}, {options.rows} rows ({tokens:.0f} tokens), {str(base.dtype)[6:]}"
    report(title, lines, options.json)


if __name__ == "__main__":
    main()
