"""What the choices about the largest parts of a step save: the same steps as they are, and without each of them.

    python benchmarks/before_after.py [--method mosld] [--rounds 5] [--json FILE]

Logits of every token, in place of those that have a loss; rows padded, beside rows of like length or all in one pass,
in place of rows laid end to end; sdpa attention in place of plain products. Steps of sixteen rows, in turn in one
process; the ratio is that of a step without to one as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from side_by_side import DEVICE, arguments, in_turn, ratio, report
from step_time import CASES, bundled_rows
from wide_layers import stepper

import mosld
from mosld.common.process import silence_libraries
from mosld.data.encoding import Example
from mosld.training.batching import IGNORED, BatchBuilder, pack

ROWS = 16


def every_token(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """As `pack`, with the logits of all tokens and labels for the same ones."""
    made = pack(examples)
    wanted = torch.full_like(made["input_ids"], IGNORED)
    wanted[0, made.pop("logits_to_keep")] = made.pop("labels")[0]
    return made | {"labels": wanted, "shift_labels": wanted}


@contextmanager
def padded(layout: BatchBuilder, alike: bool) -> Iterator[None]:
    """Padded micro-batches: of rows of like length, or of all rows as allowed in one pass."""
    kept = layout.packed, layout.overhead
    layout.packed, layout.overhead = False, layout.overhead if alike else 10**9
    yield
    layout.packed, layout.overhead = kept


@contextmanager
def sdpa(model: Any) -> Iterator[None]:
    """The model with that attention."""
    model.config._attn_implementation, kept = "mosld_sdpa", model.config._attn_implementation
    yield
    model.config._attn_implementation = kept


def main() -> None:
    """Parse, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--method", default="mosld")
    given = parser.parse_args()
    silence_libraries()
    base, tokenizer = mosld.load_base(given.model)
    method, options = CASES.get(given.method, (given.method, {}))
    taken = stepper(base.to(DEVICE), method, tokenizer.pad_token_id, **options)
    steps = bundled_rows(given.model, tokenizer, ROWS, given.rounds)
    ways: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "as it is": nullcontext,
        "logits of every token": lambda: patch("mosld.training.batching.pack", every_token),
        "padded beside rows of like length": lambda: padded(taken.batches, alike=True),
        "padded in one pass": lambda: padded(taken.batches, alike=False),
        "sdpa attention": lambda: sdpa(taken.model),
    }

    def step(way: str) -> Any:
        def one(number: int) -> None:
            """A step in that way."""
            with ways[way]():
                taken.step(steps[number], ROWS, 0.0, number)

        return one

    seconds = in_turn({way: step(way) for way in ways}, given.rounds)
    rows = [
        {"way": way, "seconds": sorted(found)[len(found) // 2], **ratio(found, seconds["as it is"])}
        for way, found in seconds.items()
    ]
    tokens = sum(len(row.tokens) for found in steps[1:] for row in found) / given.rounds
    title = f"A step of {given.model} with {given.method}, {ROWS} rows ({tokens:.0f} tokens), {str(base.dtype)[6:]}"
    report(title, rows, given.json)


if __name__ == "__main__":
    main()
