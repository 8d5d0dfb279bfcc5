"""What the choices about the largest parts of a step save: the same steps as they are, and without each of them.

    python benchmarks/before_after.py [--method mosld] [--rounds 5] [--json FILE]

Logits of every token, in place of those that have a loss; rows in the order drawn and as many a pass as allowed, in
place of passes of rows of similar length; sdpa attention in place of eager's; the products of an adapter scaled after
B, where a token has as many numbers as the layer has outputs. Steps of sixteen rows, in turn in one process; the ratio
is that of a step without to one as it is.
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
from mosld.adapters.bank import ExpertBank
from mosld.data.batches import IGNORED, Example, collate
from mosld.quiet import silence_libraries

ROWS = 16


def every_token(examples: Sequence[Example], pad: int, domains: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """As `collate`, with the logits of all tokens and labels for the same ones."""
    made = collate(examples, pad, domains)
    positions, labels = made.pop("logits_to_keep"), made.pop("labels")
    wanted = torch.full_like(made["input_ids"], IGNORED)
    for row, (places, targets) in enumerate(zip(positions, labels, strict=True)):
        real = targets != IGNORED
        wanted[row, places[real]] = targets[real]
    return made | {"labels": wanted, "shift_labels": wanted}


def as_drawn(examples: Sequence[Example], size: int, overhead: int = 0) -> list[list[Example]]:
    """As `micro_batches`, in the order given."""
    return [list(examples[start : start + size]) for start in range(0, len(examples), size)]


def scaled_last(self: ExpertBank, z: torch.Tensor, gates: torch.Tensor | None = None) -> torch.Tensor:
    """As `ExpertBank.up` where A is shared or nothing is, scaled at the end."""
    if gates is not None:
        z = gates.to(z.dtype).unsqueeze(-1) * z
    found = torch.nn.functional.linear(z.flatten(-2), self._dropped(self.B, "B"))
    return self.config.alpha / self.rank * found


@contextmanager
def sdpa(model: Any) -> Iterator[None]:
    """The model with that attention."""
    model.config._attn_implementation, kept = "sdpa", model.config._attn_implementation
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
        "logits of every token": lambda: patch("mosld.training.step.collate", every_token),
        "rows in the order drawn": lambda: patch("mosld.training.step.micro_batches", as_drawn),
        "sdpa attention": lambda: sdpa(taken.model),
        "adapters scaled after B": lambda: patch.object(ExpertBank, "up", scaled_last),
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
