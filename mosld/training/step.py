"""One optimiser step: micro-batches forward and backward, one host read, clip, update."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel

from mosld.data.encoding import Example, answer_tokens
from mosld.distributed.processes import Processes
from mosld.distributed.tensors import cast_weights
from mosld.training.batching import BatchBuilder
from mosld.training.zero_engine import make_engine

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step measured.

    Attributes:
        cross_entropy: mean over the step's answer tokens, in nats.
        auxiliary: the adapter's own loss, unscaled (balance, or the routers' of domains); None where it has none.
        grad_norm: norm of the gradient before clipping.
        tokens: tokens seen, pads not counted.
        applied: False where loss or gradient was not finite and the weights were left alone.
        stopping: whether any process was asked to stop.
    """

    cross_entropy: float
    auxiliary: float | None
    grad_norm: float
    tokens: int
    applied: bool
    stopping: bool = False


class Stepper:
    """Takes optimiser steps on the model as a whole; it calls no part of it (prefix, balance loss).

    Several processes take the micro-batches of a step in turn and add up their gradients once, in one exchange that
    also carries the losses and whether any process was asked to stop. So every process takes the same decision, and
    the step is that of one process on the same micro-batches.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        *,
        processes: Processes,
        pad_token_id: int,
        seed: int = 0,
        max_norm: float | None = None,
        auxiliary_weight: float = 0.0,
        domains: Sequence[str] = (),
        low_precision: torch.dtype | None = None,
    ) -> None:
        """Keep what every step needs.

        Args:
            model: on its device.
            optimizer: of the trained parameters.
            processes: those of this run.
            pad_token_id: token id of a pad.
            seed: the run's; dropout is a pure function of it, the step and the micro-batch.
            max_norm: gradients are clipped to it.
            auxiliary_weight: weight of the auxiliary loss, to log the two losses apart.
            domains: tasks that have an expert of their own.
            low_precision: type of the products where the weights are fp32 and train as a whole.
        """
        self.model = model
        self.processes = processes
        self.engine = make_engine(model, optimizer, processes, low_precision)
        self.batches = BatchBuilder(model, pad_token_id, domains, processes.device)
        self.seed = seed
        self.max_norm = max_norm
        self.auxiliary_weight = auxiliary_weight
        self.low_precision = low_precision

    def step(
        self,
        examples: Sequence[Example],
        micro_batch_size: int,
        learning_rate: float,
        number: int,
        stop: Callable[[], bool] = lambda: False,
    ) -> StepResult:
        """One step on these rows. The loss is the mean over all their answer tokens, however they are split.

        Args:
            examples: the rows of the step, over all processes.
            micro_batch_size: most rows per forward pass.
            learning_rate: of this step.
            number: of this step.
            stop: whether this process was asked to stop; looked at when its part of the step is done.
        """
        self.model.train()
        total, sums = answer_tokens(examples), torch.zeros(2, device=self.processes.device)
        size = min(micro_batch_size, -(-len(examples) // self.processes.count))
        batches = list(enumerate(self.batches.split(examples, size)))
        routed = False
        for (index, batch), counts in self.processes.shard(batches):
            torch.manual_seed(_seed(self.seed, number, index))
            outputs = self._forward(batch, total)
            if not counts:  # run in step with the others, who hold parts of the model
                self.engine.backward(0.0 * outputs.loss)
                continue
            self.engine.backward(outputs.loss)
            loss, aux = outputs.loss.detach(), torch.zeros((), device=self.processes.device)
            if getattr(outputs, "aux_loss", None) is not None:
                routed = True
                aux = outputs.aux_loss.detach() * (answer_tokens(batch) / total)
            sums += torch.stack([loss - self.auxiliary_weight * aux, aux])
        limit = float("inf") if self.max_norm is None else self.max_norm
        sums, norm, stopping = self.engine.reduce_gradients(sums, stop(), limit)
        # The only host read of a step; it comes before the update, so that no weight is ever poisoned.
        cross_entropy, auxiliary, grad_norm, stopping = torch.stack([*sums, norm, stopping]).tolist()
        applied = all(map(math.isfinite, (cross_entropy, auxiliary, grad_norm)))
        if applied:
            self.engine.update(learning_rate)
        self.engine.zero_grad()
        tokens = sum(len(example.tokens) for example in examples)
        return StepResult(cross_entropy, auxiliary if routed else None, grad_norm, tokens, applied, stopping > 0)

    def try_longest(self, examples: Sequence[Example], micro_batch_size: int) -> tuple[int, int]:
        """The longest micro-batch forward and backward, without an update; its rows and its length in tokens."""
        batch = sorted(examples, key=lambda example: -len(example.tokens))[:micro_batch_size]
        self.model.train()
        self.engine.backward(self._forward(batch, answer_tokens(batch)).loss)
        self.engine.zero_grad()
        return len(batch), len(batch[0].tokens)

    def finalize(self, dtype: torch.dtype) -> "PreTrainedModel | PeftModel":
        """End training: the model as it is scored and saved, after full fine-tuning in the type it was loaded in."""
        self.engine.close()
        return self.model if isinstance(self.model, PeftModel) else cast_weights(self.model, dtype)

    def _forward(self, batch: Sequence[Example], total: int) -> Any:
        items = torch.tensor(total, device=self.processes.device)
        with self.autocast():
            return self.engine.forward(**self.batches.inputs(batch), num_items_in_batch=items, use_cache=False)

    def autocast(self) -> Any:
        """The context in which the model runs while it trains, scoring included."""
        kind = self.processes.device.type
        return torch.autocast(kind, dtype=self.low_precision, enabled=self.low_precision is not None)


def _seed(run: int, step: int, micro_batch: int) -> int:
    """A seed of its own for every micro-batch of a run: nothing of the random numbers needs saving or sharing."""
    return int.from_bytes(hashlib.sha256(f"{run}/{step}/{micro_batch}".encode()).digest()[:8], "big", signed=True)
