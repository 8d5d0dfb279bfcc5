"""What happens when loss or gradient is not finite: the step is left out and named, and three in a row end the run."""

from collections.abc import Sequence

from mosld.data.batches import Example
from mosld.logging import Console
from mosld.training.engine import Engine
from mosld.training.state import Progress
from mosld.training.step import StepResult

MAX_SKIPPED = 3  # steps in a row


class DivergedError(RuntimeError):
    """Loss or gradient was not finite several steps in a row; the weights are those of the last good step."""


def report_skipped(console: Console, progress: Progress, result: StepResult, examples: Sequence[Example]) -> None:
    """Name the step that was left out and its rows.

    Raises:
        DivergedError: it was the last of several.
    """
    ids = ", ".join(f"{example.row.task}:{example.row.id}" for example in examples)
    console.say(
        f"step {progress.step} left out: loss {result.cross_entropy}, gradient norm {result.grad_norm}; its rows: {ids}"
    )
    if progress.skipped_in_a_row >= MAX_SKIPPED:
        raise DivergedError(
            f"loss or gradient was not finite {MAX_SKIPPED} steps in a row, up to step {progress.step}; the weights "
            "are those of the last good step. Lower training.learning_rate, or look at the rows named above."
        )


def require_finite(engine: Engine, step: int) -> None:
    """Refuse weights that are not finite: a finite gradient with too large a rate can make them so.

    Raises:
        DivergedError: they are not, and no checkpoint shall hold them.
    """
    if not engine.finite():
        raise DivergedError(
            f"a weight was not finite at step {step}; the checkpoints written before are whole. Lower "
            "training.learning_rate."
        )
