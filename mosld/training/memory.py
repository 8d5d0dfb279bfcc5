"""Out of memory: found out before step 1, on the longest rows, with a message that names the knobs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mosld.common.errors import UserError
from mosld.data.encoding import Example
from mosld.training.step import Stepper

TRYING = "trying the longest micro-batch"  # what a person is told meanwhile
ADVICE = (
    "Lower training.micro_batch_size (now {asked}; auto finds it), set training.gradient_checkpointing=true, or take a "
    "smaller model, model.dtype=bfloat16 or model.quantize=nf4."
)


def most_rows(asked: int | str, batch_size: int, processes: int) -> int:
    """Rows that `fit_micro_batch` begins with: no process ever sees more than its share of a step."""
    share = -(-batch_size // processes)
    return share if asked == "auto" else min(int(asked), share)


def fit_micro_batch(stepper: Stepper, examples: list[Example], asked: int | str, batch_size: int) -> int:
    """Run the longest micro-batch forward and backward; returns the number of rows that fits.

    Args:
        stepper: takes the trial.
        examples: all train rows.
        asked: rows per forward pass, or "auto": a process's share of the batch, halved until it fits.
        batch_size: rows per optimiser step.

    Raises:
        UserError: it does not fit, and what to change.
    """
    size = most_rows(asked, batch_size, stepper.processes.count)
    while True:
        fits = _fits(stepper, examples, size)
        alone = stepper.processes.sharded and not fits  # the others wait for its part of a layer, not for its answer
        if not alone and all(stepper.processes.all_gather(fits)):
            return size
        if asked != "auto" or size == 1:
            rows = min(size, len(examples))
            length = max(len(example.tokens) for example in examples)
            raise UserError(
                f"out of memory: a micro-batch of {rows} rows of up to {length} tokens does not fit. "
                + ADVICE.format(asked=asked)
            )
        size = -(-size // 2)


def _fits(stepper: Stepper, examples: list[Example], size: int) -> bool:
    try:
        stepper.try_longest(examples, size)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        stepper.engine.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False
    return True


@contextmanager
def explain_oom(asked: int | str) -> Iterator[None]:
    """Training, in which memory can still run out after the trial: the optimiser's state comes with the first step.

    Raises:
        UserError: it did, and what to change.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory while training. {ADVICE.format(asked=asked)}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or a processor."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)
