"""One optimiser step: micro-batches forward and backward, one host read, clip, update."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mosld.data.batches import Example, answer_tokens, collate, micro_batches


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step measured.

    Attributes:
        cross_entropy: mean over the step's answer tokens, in nats.
        auxiliary: the adapter's own loss, unscaled (balance, or the routers' of domains); None where it has none.
        grad_norm: norm of the gradient before clipping.
        tokens: tokens seen, pads not counted.
        applied: False where loss or gradient was not finite and the weights were left alone.
    """

    cross_entropy: float
    auxiliary: float | None
    grad_norm: float
    tokens: int
    applied: bool


class Stepper:
    """Takes optimiser steps on the wrapped model; it calls no part of it (hooks of DDP, prefix, balance loss)."""

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        accelerator: Any,
        *,
        pad: int,
        max_norm: float | None = None,
        weight: float = 0.0,
        domains: Sequence[str] = (),
        low_precision: torch.dtype | None = None,
    ) -> None:
        """Keep what every step needs.

        Args:
            model: wrapped for its device.
            optimizer: of the trained parameters.
            accelerator: accelerate's.
            pad: token id of a pad.
            max_norm: gradients are clipped to it.
            weight: that of the auxiliary loss, to log the two losses apart.
            domains: tasks that have an expert of their own.
            low_precision: type of the products where the weights are fp32 and train as a whole.
        """
        self.model, self.optimizer, self.accelerator = model, optimizer, accelerator
        self.pad, self.max_norm, self.weight = pad, max_norm, weight
        self.domains, self.low_precision = domains, low_precision
        # On a processor a short pass is nearly free; an accelerator would rather pad than start another.
        self.overhead = 128 if accelerator.device.type == "cpu" else 2048
        self.parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]

    def step(self, examples: Sequence[Example], micro_batch_size: int, learning_rate: float) -> StepResult:
        """One step on these rows. The loss is the mean over all their answer tokens, however they are split."""
        self.model.train()
        total = answer_tokens(examples)
        device = self.accelerator.device
        cross_entropy = torch.zeros((), device=device)
        auxiliary = torch.zeros((), device=device)
        routed = False
        for batch in micro_batches(examples, micro_batch_size, self.overhead):
            outputs = self._forward(batch, total)
            self.accelerator.backward(outputs.loss)
            loss = outputs.loss.detach()
            if getattr(outputs, "aux_loss", None) is not None:
                routed = True
                aux = outputs.aux_loss.detach() * (answer_tokens(batch) / total)
                auxiliary += aux
                loss = loss - self.weight * aux
            cross_entropy += loss
        limit = float("inf") if self.max_norm is None else self.max_norm
        norm = self.accelerator.clip_grad_norm_(self.parameters, limit)
        # The only host read of a step; it comes before the update, so that no weight is ever poisoned.
        values = torch.stack([cross_entropy, auxiliary, norm]).tolist()
        applied = all(map(_is_finite, values))
        if applied:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        self.optimizer.zero_grad()
        tokens = sum(len(example.tokens) for example in examples)
        return StepResult(values[0], values[1] if routed else None, values[2], tokens, applied)

    def try_longest(self, examples: Sequence[Example], micro_batch_size: int) -> tuple[int, int]:
        """The longest micro-batch forward and backward, without an update; its rows and its length in tokens."""
        state = torch.get_rng_state()
        batch = sorted(examples, key=lambda example: -len(example.tokens))[:micro_batch_size]
        self.model.train()
        self.accelerator.backward(self._forward(batch, answer_tokens(batch)).loss)
        self.optimizer.zero_grad()
        torch.set_rng_state(state)
        return len(batch), len(batch[0].tokens)

    def _forward(self, batch: Sequence[Example], total: int) -> Any:
        device = self.accelerator.device
        inputs = {key: value.to(device) for key, value in collate(batch, self.pad, self.domains).items()}
        items = torch.tensor(total, device=device)
        with self.autocast():
            return self.model(**inputs, num_items_in_batch=items, use_cache=False)

    def autocast(self) -> Any:
        """The context in which the model runs while it trains, scoring included."""
        kind = self.accelerator.device.type
        return torch.autocast(kind, dtype=self.low_precision, enabled=self.low_precision is not None)


def _is_finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
