"""Out of memory: found out before step 1, on the longest rows, with a message that names the knobs."""

import torch

from mosld.config import UserError
from mosld.data.batches import Example
from mosld.training.step import Stepper


def fit_micro_batch(stepper: Stepper, examples: list[Example], asked: int | str, batch_size: int) -> int:
    """Run the longest micro-batch forward and backward; returns the number of rows that fits.

    Args:
        stepper: takes the trial.
        examples: all train rows.
        asked: rows per forward pass, or "auto": the batch size, halved until it fits.
        batch_size: rows per optimiser step.

    Raises:
        UserError: it does not fit, and what to change.
    """
    size = batch_size if asked == "auto" else int(asked)
    while True:
        fits = _fits(stepper, examples, size)
        if all(stepper.processes.gather(fits)):
            return size
        if asked != "auto" or size == 1:
            rows = min(size, len(examples))
            length = max(len(example.tokens) for example in examples)
            raise UserError(
                f"out of memory: a micro-batch of {rows} rows of up to {length} tokens does not fit. Lower "
                f"training.micro_batch_size (now {asked}; auto finds it), set training.gradient_checkpointing=true, or "
                "take a smaller model or model.dtype=bfloat16."
            )
        size = -(-size // 2)


def _fits(stepper: Stepper, examples: list[Example], size: int) -> bool:
    try:
        stepper.try_longest(examples, size)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        stepper.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or a processor."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)
