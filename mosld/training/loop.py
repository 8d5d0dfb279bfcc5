"""The training loop: steps, measurements, validations, checkpoints. It goes on exactly where a run stopped."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosld.config import TrainingConfig
from mosld.data.batches import Example, Order
from mosld.evaluation import Evaluation
from mosld.logging import Console, MetricsLog
from mosld.logging.manifest import damage
from mosld.training.checkpoint import Checkpoints
from mosld.training.optim import learning_rate, total_steps
from mosld.training.state import Progress, load_state, load_weights, save_state, save_weights
from mosld.training.step import Stepper, StepResult

MAX_SKIPPED = 3  # steps in a row without a finite gradient before the run stops


class DivergedError(RuntimeError):
    """Loss or gradient was not finite several steps in a row; the weights are those of the last good step."""


@dataclass
class Loop:
    """What the loop works with.

    Attributes:
        stepper: takes optimiser steps.
        examples: the train rows as tokens.
        order: which rows each step sees.
        config: the training group.
        validate: scores the model on the validation split.
        load: the share of assignments of each expert by module since the last call; empty without a router.
        auxiliary: the name of the adapter's own loss in metrics.jsonl.
        checkpoints: the run's checkpoints.
        metrics_path: metrics.jsonl.
        every: steps between lines of metrics.jsonl.
        track: takes a copy of each of its lines, for a dashboard.
        console: where a person looks.
    """

    stepper: Stepper
    examples: Sequence[Example]
    order: Order
    config: TrainingConfig
    validate: Callable[[], Evaluation]
    load: Callable[[], dict[str, list[float]]]
    checkpoints: Checkpoints
    metrics_path: Path
    every: int
    console: Console
    auxiliary: str = "balance_loss"
    track: Callable[[dict[str, Any]], None] = lambda _: None

    def run(self) -> Progress:
        """Train to the end and leave the model with the weights of the best validation."""
        progress = self._resume()
        metrics = MetricsLog(self.metrics_path, progress.step)
        total = total_steps(self.order.steps_per_epoch, self.config)
        skipped_in_a_row = 0
        with self.console.progress("training", total, progress.step) as advance:
            while progress.step < total:
                started = time.perf_counter()
                rows = self.order.rows(progress.step)
                rate = learning_rate(progress.step, total, self.config)
                result = self.stepper.step([self.examples[i] for i in rows], self.config.micro_batch_size, rate)
                seconds = time.perf_counter() - started
                progress.step += 1
                progress.tokens += result.tokens
                progress.seconds += seconds
                self._write_step(metrics, progress, result, rate, seconds, total)
                skipped_in_a_row = 0 if result.applied else skipped_in_a_row + 1
                if not result.applied:
                    progress.skipped += 1
                    self._report_skipped(rows, result, skipped_in_a_row, progress.step)
                self._validate_and_save(metrics, progress, total)
                advance(_note(result, seconds))
        metrics.close()
        self._load_best(progress)
        return progress

    def _resume(self) -> Progress:
        newest = self.checkpoints.newest(self.console.say)
        if newest is None:
            return Progress()
        progress = load_state(self.stepper.model, self.stepper.optimizer, newest)
        self.console.say(f"resuming from {newest.name}")
        if progress.best_step and any(damage(self.checkpoints.best(progress.best_step))):
            self.console.say(f"the best weights, of step {progress.best_step}, are damaged: chosen anew from here")
            progress.best_score, progress.best_step = -1.0, 0
        return progress

    def _validate_and_save(self, metrics: MetricsLog, progress: Progress, total: int) -> None:
        every = self.config.validate_every or self.order.steps_per_epoch
        best = False
        if progress.step % every == 0 or progress.step == total:
            best = self._validate(metrics, progress)
        # A new best is checkpointed at once: the best weights on disk are always those that a checkpoint knows of.
        if best or progress.step % self.config.checkpoint_every == 0 or progress.step == total:
            model, optimizer = self.stepper.model, self.stepper.optimizer
            self.checkpoints.save_step(progress.step, lambda folder: save_state(model, optimizer, progress, folder))

    def _validate(self, metrics: MetricsLog, progress: Progress) -> bool:
        """Score the validation split; keep the weights and return True if they are the best so far."""
        evaluation = self.validate()
        scores = {task: score["accuracy"] for task, score in evaluation.scores.items()}
        self._write(
            metrics,
            {"step": progress.step, "validation_accuracy": scores, "validation_average": evaluation.average},
        )
        best = evaluation.average > progress.best_score
        if best:
            progress.best_score, progress.best_step = evaluation.average, progress.step
            model = self.stepper.model
            self.checkpoints.save_best(progress.step, lambda folder: save_weights(model, folder))
        by_task = ", ".join(f"{task} {100 * value:.1f}" for task, value in scores.items())
        mark = "  best so far" if best else ""
        self.console.say(f"step {progress.step}: validation accuracy {100 * evaluation.average:.1f} ({by_task}){mark}")
        return best

    def _write_step(
        self,
        metrics: MetricsLog,
        progress: Progress,
        result: StepResult,
        rate: float,
        seconds: float,
        total: int,
    ) -> None:
        if progress.step % self.every and progress.step != total:
            return
        values = {
            "step": progress.step,
            "epoch": round(progress.step / self.order.steps_per_epoch, 4),
            "tokens": progress.tokens,
            "cross_entropy": result.cross_entropy,
            self.auxiliary: result.auxiliary,
            "learning_rate": rate,
            "grad_norm": result.grad_norm,
            "tokens_per_second": round(result.tokens / seconds, 2),
            "skipped": progress.skipped,
            "expert_load": self.load(),
        }
        self._write(metrics, values)

    def _write(self, metrics: MetricsLog, values: dict[str, Any]) -> None:
        metrics.write(**values)
        self.track(values)

    def _report_skipped(self, rows: Sequence[int], result: StepResult, in_a_row: int, step: int) -> None:
        ids = ", ".join(f"{self.examples[i].row.task}:{self.examples[i].row.id}" for i in rows)
        self.console.say(
            f"step {step} left out: loss {result.cross_entropy}, gradient norm {result.grad_norm}; its rows: {ids}"
        )
        if in_a_row >= MAX_SKIPPED:
            raise DivergedError(
                f"loss or gradient was not finite {in_a_row} steps in a row, up to step {step}; the weights are those "
                "of the last good step. Lower training.learning_rate, or look at the rows named above."
            )

    def _load_best(self, progress: Progress) -> None:
        best = self.checkpoints.best(progress.best_step)
        faults = list(damage(best))
        if faults:
            self.console.say(f"{best.name} is damaged ({faults[0]}): the weights of the last step are kept instead")
            progress.best_step = progress.step
            return
        load_weights(self.stepper.model, best)
        self.console.say(f"kept the adapter of step {progress.best_step}")


def _note(result: StepResult, seconds: float) -> str:
    auxiliary = "" if result.auxiliary is None else f"  auxiliary {result.auxiliary:.2f}"
    return f"loss {result.cross_entropy:.3f}{auxiliary}  {result.tokens / seconds:.0f} tokens/s"
