"""The training loop: steps, metrics, validations, checkpoints. A resumed run continues exactly where it stopped.

A step whose loss or gradient is not finite is skipped and its rows are named; three in a row end the run.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mosld.config.schema import TrainingConfig
from mosld.data.mixing import Order
from mosld.data.tokens.encoding import Example
from mosld.evaluation.validation import Validation
from mosld.runs.console import Console
from mosld.runs.loss_curve import read_lines
from mosld.runs.results import MetricsLog
from mosld.runs.routing_watch import RoutingWatch
from mosld.training.checkpoint import Checkpoints, Progress, load_state, load_weights, save_state, save_weights
from mosld.training.memory import explain_oom, fit_micro_batch
from mosld.training.optim import learning_rate, total_steps
from mosld.training.signals import StopSignals
from mosld.training.step import Stepper, StepResult

MAX_SKIPPED_STEPS = 3
# Why the weights that a run keeps are the best.
BEST_BY = {
    "accuracy": "best validation accuracy", "loss": "lowest validation loss", "last": "the last: no validation rows",
}  # fmt: skip
# When a loss explodes: `LossWatch`.
EXPLOSION_FACTOR = 2.0
EXPLOSION_STEPS = 3
EXPLOSION_FACTOR_AT_ONCE = 10.0


class DivergedError(RuntimeError):
    """Loss, gradient or a weight is not finite; the weights of the last checkpoint are."""


class LossWatch:
    """Watches the cross entropy of each step.

    A model that gives all V tokens the same probability has a loss of ln V, on whatever rows; one that learns is below
    it. Random weights with sharp predictions may be above it, and then from the first step on, which no update has
    touched. So the loss explodes where it exceeds the larger of both `EXPLOSION_FACTOR` times, `EXPLOSION_STEPS` steps
    long (one batch of odd rows is no explosion), or `EXPLOSION_FACTOR_AT_ONCE` times in one step (the next one may not
    be finite).

    Attributes:
        guessing: ln V.
        first: the loss of the first step; infinite before it.
    """

    def __init__(self, vocabulary: int) -> None:
        self.guessing = math.log(max(2, vocabulary))
        self.first = math.inf
        self._above = 0
        self._warned = False

    def explodes(self, loss: float) -> bool:
        """Whether the loss of this step shows it; True once."""
        if self.first == math.inf:
            self.first = loss
        reference = max(self.guessing, self.first)
        self._above = self._above + 1 if loss > EXPLOSION_FACTOR * reference else 0
        exploding = self._above >= EXPLOSION_STEPS or loss > EXPLOSION_FACTOR_AT_ONCE * reference
        new = exploding and not self._warned
        self._warned = self._warned or exploding
        return new


@dataclass
class Loop:
    """The loop and what it works with. Every process takes the same steps; the main process alone writes.

    Attributes:
        validate: measures accuracy and loss on the validation split.
        best_by: which of the two chooses the best weights: "accuracy", "loss", or "last" for the last weights.
        log_every: steps between lines of metrics.jsonl.
        stop: the signals that ask the run to stop.
        auxiliary: the name of the adapter's own loss in metrics.jsonl.
        expert_load_every: of the lines of metrics.jsonl, every which one has the load of the experts; the last has it.
        routing: watches these loads, where routers choose.
        track: gets a copy of each line of metrics.jsonl.
    """

    stepper: Stepper
    examples: Sequence[Example]
    order: Order
    config: TrainingConfig
    validate: Callable[[], Validation]
    best_by: str
    checkpoints: Checkpoints
    metrics_path: Path
    log_every: int
    console: Console
    stop: StopSignals
    auxiliary: str = "balance_loss"
    expert_load_every: int = 1
    routing: RoutingWatch | None = None
    track: Callable[[dict[str, object]], None] = lambda _: None
    # The number of the next step, and its rows.
    _upcoming: tuple[int, list[Example]] = (-1, [])
    # What a signal waits for.
    _activity: str = ""

    @cached_property
    def loss_watch(self) -> LossWatch:
        """What the loss is compared with."""
        return LossWatch(self.stepper.model.config.get_text_config().vocab_size)

    def run(self) -> Progress:
        """Train to the end and leave the model with the weights of the best validation.

        Raises:
            KeyboardInterrupt: a signal asked the run to stop; its last step is in a checkpoint.
            DivergedError: loss or gradient was not finite several steps in a row.
            UserError: the longest rows do not fit in memory.
        """
        progress = self._resume()
        requested = self.config.micro_batch_size
        if requested == "auto" and progress.micro_batch_size:
            # A resumed run keeps the size that it began with.
            requested = progress.micro_batch_size
        progress.micro_batch_size = fit_micro_batch(
            self.stepper, self.examples, requested, self.config.batch_size, self.console
        )
        if self.config.micro_batch_size == "auto":
            self.console.say(f"micro-batches of up to {progress.micro_batch_size} rows fit in memory")
        total = self.total_steps
        with (
            MetricsLog(self.metrics_path, progress.step) as metrics,
            self.console.progress("training", total, progress.step) as advance,
            self.stop.waiting(self._answer_signal),
            explain_oom(self.config.micro_batch_size),
        ):
            if self.routing:
                # What was seen and said before the run was interrupted.
                for line in read_lines(self.metrics_path):
                    self.routing.add(line)
            while progress.step < total and not self._out_of_patience(progress):
                advance(self._step(metrics, progress, total))
        if progress.step < total:
            self.console.say(
                f"stopped at step {progress.step} of {total}: the validation {self.best_by} did not improve "
                f"{progress.not_improved} time{'s' if progress.not_improved > 1 else ''} in a row "
                f"(training.patience={self.config.patience})"
            )
        self._load_best(progress)
        return progress

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run; it may end earlier, out of patience."""
        return total_steps(self.order.steps_per_epoch, self.config)

    def _answer_signal(self, name: str) -> None:
        again = "; again to stop now" if name == "SIGINT" else "; Ctrl-C to stop now"
        self.console.say(f"{name}: finishing {self._activity}{again}")

    def _out_of_patience(self, progress: Progress) -> bool:
        return self.config.patience is not None and progress.not_improved >= self.config.patience

    def _resume(self) -> Progress:
        processes = self.stepper.processes
        newest = processes.broadcast(self.checkpoints.newest(self.console.say) if processes.main else None)
        if newest is None:
            return Progress()
        progress = load_state(self.stepper.engine, newest)
        self.console.say(f"resuming from {newest.name}")
        best = self.checkpoints.best(progress.best_step)
        if progress.best_step and processes.broadcast(processes.main and self.checkpoints.fault(best) is not None):
            self.console.say(f"{best.name} is damaged: the best weights are chosen again from here on")
            progress.best_step = 0
        return progress

    def _step(self, metrics: MetricsLog, progress: Progress, total: int) -> str:
        """One optimiser step and what belongs to it; returns a note for the progress bar."""
        started = time.perf_counter()
        self._activity = f"step {progress.step + 1}"
        rate = learning_rate(progress.step, total, self.config)
        examples = self._rows(progress.step)
        self._upcoming = (progress.step + 1, self._rows(progress.step + 1) if progress.step + 1 < total else [])
        result = self.stepper.step(
            examples, progress.micro_batch_size, rate, progress.step, self._stop_requested, self._upcoming[1]
        )
        seconds = time.perf_counter() - started
        progress.step += 1
        progress.tokens += result.tokens
        progress.seconds += seconds
        progress.skipped_in_a_row = 0 if result.applied else progress.skipped_in_a_row + 1
        progress.skipped += not result.applied
        if progress.step % self.log_every == 0 or progress.step == total:
            self._log_step(metrics, progress, result, rate, seconds)
        if result.applied:
            self._watch_loss(progress.step, result.cross_entropy)
        else:
            self._report_skipped(progress, result, examples)
        self._validate_and_save(metrics, progress, total, result.stopping)
        return _note(result, seconds, self.auxiliary)

    def _watch_loss(self, step: int, loss: float) -> None:
        """Warn once of a loss that explodes, before weights or gradients are no longer finite."""
        if self.loss_watch.explodes(loss):
            self.console.say(
                f"warning: step {step}: the loss explodes: it is {loss:.4g}, was {self.loss_watch.first:.4g} at first, "
                f"and of a model that guesses is {self.loss_watch.guessing:.4g}. "
                f"training.learning_rate={self.config.learning_rate:g} is likely too high."
            )

    def _rows(self, step: int) -> list[Example]:
        number, rows = self._upcoming
        return rows if step == number else [self.examples[index] for index in self.order.rows(step)]

    def _report_skipped(self, progress: Progress, result: StepResult, examples: Sequence[Example]) -> None:
        """Name the skipped step and its rows.

        Raises:
            DivergedError: it was the last of `MAX_SKIPPED_STEPS` in a row.
        """
        ids = ", ".join(f"{example.row.task}:{example.row.id}" for example in examples)
        self.console.say(
            f"step {progress.step} skipped: loss {result.cross_entropy}, gradient norm {result.grad_norm}; "
            f"its rows: {ids}"
        )
        if progress.skipped_in_a_row >= MAX_SKIPPED_STEPS:
            raise DivergedError(
                f"loss or gradient was not finite {MAX_SKIPPED_STEPS} steps in a row, up to step {progress.step}; the "
                "weights are those of the last good step. Lower training.learning_rate, or look at the rows named "
                "above."
            )

    def _validate_and_save(self, metrics: MetricsLog, progress: Progress, total: int, stopping: bool) -> None:
        processes = self.stepper.processes
        last = progress.step == total
        validating = last or progress.step % (self.config.validate_every or self.order.steps_per_epoch) == 0
        due = last or progress.step % self.config.checkpoint_every == 0
        if validating or due or stopping:
            self._require_finite(progress.step)
        best = validating and self._validate(metrics, progress)
        if validating:
            # Validation takes long: a signal may have reached any process meanwhile.
            stopping = any(processes.all_gather(stopping or self._stop_requested()))
        # A new best is checkpointed at once: the best weights on disk are always those that a checkpoint names.
        if best or due or stopping or self._out_of_patience(progress):
            self._save(metrics, progress)
        if stopping:
            self.console.say(f"{self.stop.requested or 'a signal'}: step {progress.step} is saved")
            # A launcher that sees one process exit soon kills the others, which may still be saving.
            processes.barrier()
            raise KeyboardInterrupt

    def _require_finite(self, step: int) -> None:
        """Refuse to save weights that are not finite: a finite gradient with too large a rate can make them so."""
        if not self.stepper.engine.finite():
            raise DivergedError(
                f"a weight was not finite at step {step}; the checkpoints written before are whole. Lower "
                "training.learning_rate."
            )

    def _stop_requested(self) -> bool:
        return self.stop.requested is not None

    def _save(self, metrics: MetricsLog, progress: Progress) -> None:
        started = time.perf_counter()
        engine = self.stepper.engine
        folder = self.checkpoints.save_step(progress.step, lambda folder: save_state(engine, progress, folder))
        if self.stepper.processes.main:
            size = sum(path.stat().st_size for path in folder.iterdir())
            seconds = round(time.perf_counter() - started, 4)
            self._log(metrics, {"step": progress.step, "checkpoint_seconds": seconds, "checkpoint_bytes": size})

    def _validate(self, metrics: MetricsLog, progress: Progress) -> bool:
        """Measure the validation split; if it is the best so far, keep the weights and return True."""
        self._activity = f"step {progress.step} and its validation"
        validation = self.validate()
        self._log(metrics, {"step": progress.step, **validation.record()})
        rank = self._rank(validation.average, validation.average_loss)
        rank_before = self._rank(progress.best_score, progress.best_loss) if progress.best_step else -math.inf
        # Of equally good weights the later ones are kept: they have learned from more rows.
        best = rank >= rank_before
        progress.not_improved = 0 if rank > rank_before or self.best_by == "last" else progress.not_improved + 1
        if best:
            progress.best_score = -1.0 if validation.average is None else validation.average
            progress.best_loss = validation.average_loss
            progress.best_step = progress.step
            engine = self.stepper.engine
            self.checkpoints.save_best(progress.step, lambda folder: save_weights(engine, folder))
        if description := validation.describe():
            self.console.say(f"step {progress.step}: validation {description}{'  best so far' if best else ''}")
        return best

    def _rank(self, accuracy: float | None, loss: float | None) -> float:
        """How good a validation is, the higher the better; minus infinity where its measure is missing or NaN."""
        measure = {"accuracy": accuracy, "loss": None if loss is None else -loss, "last": 0.0}[self.best_by]
        return -math.inf if measure is None or math.isnan(measure) else measure

    def _log_step(
        self, metrics: MetricsLog, progress: Progress, result: StepResult, rate: float, seconds: float
    ) -> None:
        load = self.stepper.pop_expert_load()
        step = progress.step
        has_load = step == self.total_steps or step % (self.log_every * self.expert_load_every) == 0
        values: dict[str, object] = {
            "step": progress.step,
            "epoch": round(progress.step / self.order.steps_per_epoch, 4),
            "tokens": progress.tokens,
            "cross_entropy": result.cross_entropy,
            self.auxiliary: result.auxiliary,
            "learning_rate": rate,
            "grad_norm": result.grad_norm,
            "tokens_per_second": round(result.tokens / seconds, 2),
            "skipped": progress.skipped,
            **(load if has_load else {}),
        }
        warnings = self.routing.add(values) if self.routing else []
        self._log(metrics, values)
        for warning in warnings:
            self.console.say(warning)

    def _log(self, metrics: MetricsLog, values: dict[str, object]) -> None:
        metrics.write(**values)
        self.track(values)

    def _load_best(self, progress: Progress) -> None:
        processes = self.stepper.processes
        best = self.checkpoints.best(progress.best_step)
        fault = processes.broadcast(self.checkpoints.fault(best) if processes.main else None)
        if fault:
            self.console.say(f"{best.name} is damaged ({fault}): the weights of the last step are kept instead")
            progress.best_step = progress.step
        else:
            load_weights(self.stepper.engine, best)
            self.console.say(f"kept the weights of step {progress.best_step} ({BEST_BY[self.best_by]})")


def _note(result: StepResult, seconds: float, auxiliary: str) -> str:
    own_loss = "" if result.auxiliary is None else f"  {auxiliary.replace('_', ' ')} {result.auxiliary:.2f}"
    return f"loss {result.cross_entropy:.3f}{own_loss}  {result.tokens / seconds:.0f} tokens/s"
