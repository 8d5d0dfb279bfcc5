"""A trial before step 1, on the longest rows: out of memory is found, with a message that names the keys to change."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from mosld.common.errors import UserError, is_out_of_memory
from mosld.data.tokens.encoding import Example, longest
from mosld.runs.console import Console
from mosld.training.step import UNREACHED, Stepper

NAMED = 3  # of the layers that get no gradient
ADVICE = (
    "Lower training.micro_batch_size (now {requested}; auto finds it), set training.gradient_checkpointing=true, or "
    "take a smaller model, model.dtype=bfloat16 or model.quantize=nf4."
)


def fit_micro_batch(
    stepper: Stepper, examples: Sequence[Example], requested: int | str, batch_size: int, console: Console
) -> int:
    """Run the longest micro-batch forward and backward; returns the number of rows that fits.

    Layers that get no gradient in this pass are named on the console.

    Args:
        requested: rows per forward pass, or "auto": a process's share of the batch, halved until it fits.

    Raises:
        UserError: it does not fit, and what to change; or no layer gets a gradient.
    """
    with console.working("trying the longest micro-batch"):
        size, unreached = _fit(stepper, examples, requested, batch_size)
    # The trial counted assignments, too.
    stepper.pop_expert_load()
    if unreached:
        more = f" ({len(unreached) - NAMED} more)" if len(unreached) > NAMED else ""
        console.say(
            f"warning: no gradient reaches {len(unreached)} of the trained layers, so they stay as they are: "
            f"{', '.join(unreached[:NAMED])}{more}; {UNREACHED}. method.targets can leave them out."
        )
    return size


def _fit(stepper: Stepper, examples: Sequence[Example], requested: int | str, batch_size: int) -> tuple[int, list[str]]:
    """The number of rows that fits, and the layers that got no gradient."""
    processes = stepper.processes
    share = -(-batch_size // processes.count)
    size = share if requested == "auto" else min(int(requested), share)
    while True:
        unreached = _try(stepper, examples, size)
        fits = unreached is not None
        # With a sharded model the others wait for this process's shard of a layer and cannot answer.
        others_wait = processes.sharded and not fits
        if not others_wait and all(processes.all_gather(fits)):
            return size, unreached or []
        if requested != "auto" or size == 1:
            rows = min(size, len(examples))
            length = len(longest(examples, 1)[0].tokens)
            raise UserError(
                f"out of memory: a micro-batch of {rows} rows of up to {length} tokens does not fit. "
                + ADVICE.format(requested=requested)
            )
        size = -(-size // 2)


def _try(stepper: Stepper, examples: Sequence[Example], size: int) -> list[str] | None:
    """As `Stepper.try_longest`; None where memory runs out."""
    try:
        return stepper.try_longest(examples, size)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        stepper.engine.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


@contextmanager
def explain_oom(requested: int | str) -> Iterator[None]:
    """Explain an out-of-memory error of training: the optimiser's state comes with step 1, after the trial.

    Raises:
        UserError: memory ran out, and what to change.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory while training. {ADVICE.format(requested=requested)}") from error
