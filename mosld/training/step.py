"""One optimiser step: micro-batches forward and backward, gradients summed and clipped, one host read, update."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch.optim import Optimizer

from mosld.adapters.config import adapter_config
from mosld.adapters.load import Model
from mosld.adapters.tuner import MosldModel
from mosld.common.errors import UserError
from mosld.data.tokens.encoding import Example, answer_tokens, longest
from mosld.distributed.processes import Processes
from mosld.distributed.tensors import cast_weights
from mosld.training.batching import BatchBuilder, Domains, Inputs
from mosld.training.engine import TrainingOutput
from mosld.training.zero_engine import make_engine

# Why a backward pass does not reach layers.
UNREACHED = "the model does not run them on text, or reads their weights past the adapter"


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step measured.

    Attributes:
        cross_entropy: mean over the step's answer tokens, in nats.
        auxiliary: the adapter's own loss, unscaled (balance, or the routers' of domains); None where it has none.
        grad_norm: before clipping.
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


@dataclass(frozen=True)
class _Prepared:
    """The micro-batches of a step, with the tensors of the first.

    Attributes:
        examples: the rows of the step, over all processes.
        micro_batch_size: most rows per forward pass.
        share: this process's micro-batches with their indices, and whether each counts (`Processes.shard`).
        first: the keyword arguments of the model's forward on the first of them, on its device.
    """

    examples: Sequence[Example]
    micro_batch_size: int
    share: Sequence[tuple[tuple[int, list[Example]], bool]]
    first: Inputs

    def serves(self, examples: Sequence[Example], micro_batch_size: int) -> bool:
        return examples is self.examples and micro_batch_size == self.micro_batch_size


class Stepper:
    """Takes optimiser steps on a model.

    The processes take the micro-batches of a step in turn and sum their gradients in one all-reduce, which also carries
    the losses and whether any process was asked to stop. So all processes take the same decision, and the step equals
    that of one process on the same micro-batches.
    """

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        *,
        processes: Processes,
        pad_token_id: int,
        seed: int = 0,
        max_norm: float | None = None,
        domains: Domains = (),
        low_precision: torch.dtype | None = None,
    ) -> None:
        """Make the engine and the batch builder.

        Args:
            seed: seed of the run; dropout is a pure function of it, the step and the micro-batch.
            low_precision: dtype of matrix products, where the whole model trains in float32.
        """
        self.model = model
        self.processes = processes
        self.engine = make_engine(model, optimizer, processes, low_precision)
        self.batches = BatchBuilder(model, pad_token_id, domains, processes.device)
        self.seed = seed
        self.max_norm = math.inf if max_norm is None else max_norm
        # To log the two losses apart.
        self.auxiliary_weight = getattr(adapter_config(model), "auxiliary_weight", 0.0)
        self.low_precision = low_precision
        tuner = getattr(model, "base_model", None)
        self._tuner = tuner if isinstance(tuner, MosldModel) else None
        self._prepared = _Prepared([], 0, [], {})

    def step(
        self,
        examples: Sequence[Example],
        micro_batch_size: int,
        learning_rate: float,
        number: int,
        stop: Callable[[], bool] = lambda: False,
        upcoming: Sequence[Example] = (),
    ) -> StepResult:
        """Take one step. The loss is the mean over all answer tokens of the rows, however they are split.

        Args:
            examples: the rows of the step, over all processes.
            stop: whether this process was asked to stop; called after its share of the step.
            upcoming: the rows of the next step, the same object as its `examples`; their first micro-batch is made
                while the device computes this step.
        """
        self.model.train()
        total = answer_tokens(examples)
        if not self._prepared.serves(examples, micro_batch_size):
            self._prepare(examples, micro_batch_size)
        with self._balancing(number, total) as move_biases:
            sums, has_auxiliary = self._backward(number, total)
            sums, norm, stopping = self.engine.reduce_gradients(sums, stop(), self.max_norm)
            self._prepare(upcoming, micro_batch_size)
            # The only host read of a step. It comes before the update, so that no weight becomes NaN.
            cross_entropy, mean_auxiliary, grad_norm, stop_count = torch.stack([*sums, norm, stopping]).tolist()
            applied = all(map(math.isfinite, (cross_entropy, mean_auxiliary, grad_norm)))
            if applied:
                self.engine.update(learning_rate)
                move_biases()
        self.engine.zero_grad()
        return StepResult(
            cross_entropy=cross_entropy,
            auxiliary=mean_auxiliary if has_auxiliary else None,
            grad_norm=grad_norm,
            tokens=sum(len(example.tokens) for example in examples),
            applied=applied,
            stopping=stop_count > 0,
        )

    def _backward(self, number: int, total: int) -> tuple[torch.Tensor, bool]:
        """The sums of cross entropy and auxiliary loss over this process's micro-batches, and whether it has one."""
        sums = torch.zeros(2, device=self.processes.device)
        has_auxiliary = False
        for outputs, batch, counts in self._outputs(number, total):
            if not counts:
                # Run only because the other processes need this one's shards.
                self.engine.backward(0.0 * outputs.loss)
                continue
            self.engine.backward(outputs.loss)
            loss = outputs.loss.detach()
            auxiliary = torch.zeros((), device=self.processes.device)
            auxiliary_loss = getattr(outputs, "aux_loss", None)
            if auxiliary_loss is not None:
                has_auxiliary = True
                auxiliary = auxiliary_loss.detach() * (answer_tokens(batch) / total)
            sums += torch.stack([loss - self.auxiliary_weight * auxiliary, auxiliary])
        return sums, has_auxiliary

    def _outputs(self, number: int, total: int) -> Iterator[tuple[TrainingOutput, Sequence[Example], bool]]:
        """The output of each of this process's micro-batches, its rows, and whether it counts."""
        prepared = self._prepared
        for position, ((index, batch), counts) in enumerate(prepared.share):
            torch.manual_seed(_micro_batch_seed(self.seed, number, index))
            inputs = self.batches.inputs(batch) if position else prepared.first
            with nullcontext() if counts else self._serving_others():
                outputs = self._forward(inputs, total)
            yield outputs, batch, counts

    def _balancing(self, number: int, total: int) -> AbstractContextManager[Callable[[], None]]:
        """The tuner's `over_step`; what it yields does nothing where there are no experts."""

        @torch.no_grad()
        def count_ahead() -> None:
            for _ in self._outputs(number, total):
                pass

        if self._tuner is None:
            return nullcontext(lambda: None)
        return self._tuner.over_step(count_ahead, self.processes.all_reduce)

    def _serving_others(self) -> AbstractContextManager[None]:
        """A pass whose rows count in another process."""
        return nullcontext() if self._tuner is None else self._tuner.context.auxiliary_loss.step_load.counting(False)

    def try_longest(self, examples: Sequence[Example], micro_batch_size: int) -> list[str]:
        """Run the longest micro-batch forward and backward, without an update.

        Returns:
            The layers that got no gradient (`layers_without_gradient`), where the engine shows gradients.

        Raises:
            UserError: no layer got one.
        """
        batch = longest(examples, micro_batch_size)
        self.model.train()
        loss = self._forward(self.batches.inputs(batch), answer_tokens(batch)).loss
        if not loss.requires_grad:
            raise UserError(f"no gradient reaches the layers of method.targets: {UNREACHED}.")
        self.engine.backward(loss)
        unreached = self.engine.layers_without_gradient()
        self.engine.zero_grad()
        return unreached

    def pop_expert_load(self) -> dict[str, dict[str, list[float] | float]]:
        """As `AuxiliaryLoss.pop_load`, rounded for metrics.jsonl; no module without a router."""
        shares_by_kind = self._tuner.pop_load() if self._tuner else {"expert_load": {}}
        shares = [share.flatten() for modules in shares_by_kind.values() for share in modules.values()]
        # One host read for all modules.
        numbers = iter(torch.cat(shares).tolist() if shares else [])
        return {
            kind: {
                module: [round(next(numbers), 6) for _ in share] if share.ndim else round(next(numbers), 4)
                for module, share in modules.items()
            }
            for kind, modules in shares_by_kind.items()
        }

    def finalize(self, dtype: torch.dtype) -> Model:
        """End training; after full fine-tuning the model gets the dtype that it was loaded in."""
        self.engine.close()
        return self.model if isinstance(self.model, PeftModel) else cast_weights(self.model, dtype)

    def _prepare(self, examples: Sequence[Example], micro_batch_size: int) -> None:
        size = min(micro_batch_size, -(-len(examples) // self.processes.count))
        share = self.processes.shard(list(enumerate(self.batches.split(examples, size)))) if examples else []
        first = self.batches.inputs(share[0][0][1]) if share else {}
        self._prepared = _Prepared(examples, micro_batch_size, share, first)

    def _forward(self, inputs: Inputs, total: int) -> TrainingOutput:
        # Unlike `torch.tensor`, it does not wait for the device.
        count = torch.full((), total, device=self.processes.device)
        with self.autocast():
            return self.engine.forward(**inputs, num_items_in_batch=count, use_cache=False)

    def autocast(self) -> torch.autocast:
        """The context in which the model runs while it trains, validation included."""
        device_type = self.processes.device.type
        return torch.autocast(device_type, dtype=self.low_precision, enabled=self.low_precision is not None)


def _micro_batch_seed(run_seed: int, step: int, micro_batch: int) -> int:
    """The seed of a micro-batch's dropout, so that no random state is saved or exchanged."""
    digest = hashlib.sha256(f"{run_seed}/{step}/{micro_batch}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
