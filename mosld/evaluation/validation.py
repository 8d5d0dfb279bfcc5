"""The validation split of a run in training: accuracy and loss by task, and which of the two chooses the best weights.

The loss of a task is the mean cross entropy over the answer tokens of all its rows, as in training.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from mosld.adapters.load import Model
from mosld.common.files import JsonObject
from mosld.data.tasks import Task
from mosld.data.tokens.encoding import Example
from mosld.evaluation.forward import run_batches, scoring_mode

# The rows of each forward pass, by task.
Batches = Mapping[str, Sequence[list[Example]]]
# The kinds of tasks whose accuracy says how good an answer is; a reply that differs in one word may be as good.
EXACT_KINDS = ("choice", "solution")
# Label of a position without a loss, as in torch.
IGNORED = -100


@dataclass(frozen=True)
class Validation:
    """What one validation measured.

    Attributes:
        accuracy: of each scored task, a share of 1.
        loss: of each task that has validation rows, in nats a token.
    """

    accuracy: dict[str, float]
    loss: dict[str, float]

    @property
    def average(self) -> float | None:
        """Mean accuracy over tasks; None where nothing is scored."""
        return _mean(self.accuracy)

    @property
    def average_loss(self) -> float | None:
        """Mean loss over tasks, each counted once; None without validation rows."""
        return _mean(self.loss)

    def record(self) -> JsonObject:
        """The keys of metrics.jsonl: the averages first, which readers take from the head of a line."""
        return {
            "validation_average": self.average,
            "validation_loss_average": self.average_loss,
            "validation_perplexity": perplexity(self.average_loss),
            "validation_accuracy": self.accuracy,
            "validation_loss": self.loss,
        }

    def describe(self) -> str:
        """One line for the user; empty where nothing was measured."""
        parts = []
        if self.average is not None:
            by_task = ", ".join(f"{task} {100 * value:.1f}" for task, value in self.accuracy.items())
            parts.append(f"accuracy {100 * self.average:.1f} ({by_task})")
        if self.average_loss is not None:
            by_task = ", ".join(f"{task} {value:.3f}" for task, value in self.loss.items())
            parts.append(f"loss {self.average_loss:.3f} ({by_task}), perplexity {perplexity(self.average_loss):.2f}")
        return ", ".join(parts)


def _mean(values: Mapping[str, float]) -> float | None:
    return sum(values.values()) / len(values) if values else None


def perplexity(loss: float | None) -> float | None:
    """The exponential of a loss in nats a token."""
    if loss is None:
        return None
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def chosen_by(tasks: Mapping[str, Task], rows: Mapping[str, Sequence[object]]) -> str:
    """The measure that chooses the best weights.

    Returns:
        "accuracy" if any task with validation rows is scored by a choice or a number, else "loss"; "last" without
        validation rows, where the weights of the last step are taken.
    """
    validated = [task for name, task in tasks.items() if rows.get(name)]
    if any(task.scored and task.kind in EXACT_KINDS for task in validated):
        return "accuracy"
    return "loss" if validated else "last"


def validation_losses(
    model: Model,
    batches: Batches,
    inputs: Callable[[list[Example]], Mapping[str, object]],
) -> dict[str, float]:
    """The loss of each task, in eval mode.

    All processes of a run call this with the same rows. They share the batches, and each gets the whole result.

    Args:
        model: the model in training; its training mode is restored at the end.
        batches: each of rows of one task.
        inputs: makes the keyword arguments of a training forward out of rows.
    """

    def sums(batch: list[list[Example]], _: bool) -> list[tuple[float, int]]:
        # The domain is left out: as in scoring, a mixture of domains chooses its expert itself.
        arguments = {key: value for key, value in inputs(batch[0]).items() if key not in ("labels", "domain")}
        labels = arguments.pop("shift_labels")
        assert isinstance(labels, Tensor)
        logits = model(**arguments, use_cache=False).logits.float()
        total = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return [(total.item(), int((labels != IGNORED).sum()))]

    if not batches:
        return {}
    every_batch = [[batch] for task_batches in batches.values() for batch in task_batches]
    with scoring_mode(model):
        sums_by_batch = run_batches(every_batch, sums, iter)
    losses = {}
    for task, task_batches in batches.items():
        totals, counts = zip(*(sums_by_batch[id(batch)] for batch in task_batches), strict=True)
        losses[task] = sum(totals) / sum(counts)
    return losses
