"""The training loop: steps, measurements, validations, checkpoints. It goes on exactly where a run stopped."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosld.common.files import damage
from mosld.config.schema import TrainingConfig
from mosld.data.encoding import Example
from mosld.data.mixing import Order
from mosld.evaluation.evaluate import Evaluation
from mosld.runs.console import Console
from mosld.runs.results import MetricsLog
from mosld.training.checkpoint import Checkpoints, Progress, load_state, load_weights, save_state, save_weights
from mosld.training.engine import Engine
from mosld.training.memory import TRYING, explain_oom, fit_micro_batch, most_rows
from mosld.training.optim import learning_rate, total_steps
from mosld.training.room import surely_fits
from mosld.training.signals import StopSignals
from mosld.training.step import Stepper, StepResult

# PART: What happens when loss or gradient is not finite: the step is left out and named, and three in a row end the
# run.


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


# PART: The training loop: steps, measurements, validations, checkpoints. It goes on exactly where a run stopped.


@dataclass
class Loop:
    """What the loop works with. In several processes all take the same steps; the main one alone writes.

    Attributes:
        stepper: takes optimiser steps.
        examples: the train rows as tokens.
        order: which rows each step sees.
        config: the training group.
        validate: scores the model on the validation split.
        load: what metrics.jsonl says of the experts since the last call: "expert_load", the share of assignments of
            each expert by module; "dropped", where they have limited room.
        checkpoints: the run's checkpoints.
        metrics_path: metrics.jsonl.
        every: steps between lines of metrics.jsonl.
        track: takes a copy of each of its lines, for a dashboard.
        auxiliary: the name of the adapter's own loss in metrics.jsonl.
        console: where a person looks.
        stop: the signals that ask the run to stop.
    """

    stepper: Stepper
    examples: list[Example]
    order: Order
    config: TrainingConfig
    validate: Callable[[], Evaluation]
    load: Callable[[], dict[str, dict[str, Any]]]
    checkpoints: Checkpoints
    metrics_path: Path
    every: int
    console: Console
    stop: StopSignals
    auxiliary: str = "balance_loss"
    track: Callable[[dict[str, Any]], None] = lambda _: None

    def run(self) -> Progress:
        """Train to the end and leave the model with the weights of the best validation.

        Raises:
            KeyboardInterrupt: a signal asked the run to stop; its last step is in a checkpoint.
            DivergedError: loss or gradient was not finite several steps in a row.
            UserError: the longest rows do not fit in memory.
        """
        progress, asked = self._resume(), self.config.micro_batch_size
        if asked == "auto" and progress.micro_batch_size:  # a run keeps the size that it began with
            asked = progress.micro_batch_size
        progress.micro_batch_size = self._fitting(asked)
        if self.config.micro_batch_size == "auto":
            self.console.say(f"micro-batches of up to {progress.micro_batch_size} rows fit in memory")
        total = total_steps(self.order.steps_per_epoch, self.config)
        with (
            MetricsLog(self.metrics_path, progress.step) as metrics,
            self.console.progress("training", total, progress.step) as advance,
            self.stop.waiting(),
            explain_oom(self.config.micro_batch_size),
        ):
            while progress.step < total:
                advance(self._step(metrics, progress, total))
        self._load_best(progress)
        return progress

    def _fitting(self, asked: int | str) -> int:
        """Rows of a micro-batch that fit: tried out on the longest ones, where there may be too little memory."""
        stepper, rows, whole = self.stepper, self.examples, self.config.batch_size
        most = most_rows(asked, whole, stepper.processes.count)
        if not self.config.compile and surely_fits(stepper, rows, most):  # a compiler takes what it likes
            return most
        with self.console.working(TRYING):
            size = fit_micro_batch(stepper, rows, asked, whole)
        self.load()  # what the trial counted
        return size

    def _resume(self) -> Progress:
        processes = self.stepper.processes
        newest = processes.broadcast(self.checkpoints.newest(self.console.say) if processes.main else None)
        if newest is None:
            return Progress()
        progress = load_state(self.stepper.engine, newest)
        self.console.say(f"resuming from {newest.name}")
        best = self.checkpoints.best(progress.best_step)
        if progress.best_step and processes.broadcast(processes.main and any(damage(best))):
            self.console.say(f"the best weights, of step {progress.best_step}, are damaged: chosen anew from here")
            progress.best_score, progress.best_step = -1.0, 0
        return progress

    def _step(self, metrics: MetricsLog, progress: Progress, total: int) -> str:
        """One step and what belongs to it; returns a note for the progress bar."""
        started = time.perf_counter()
        rows = self.order.rows(progress.step)
        rate = learning_rate(progress.step, total, self.config)
        examples = [self.examples[i] for i in rows]
        result = self.stepper.step(examples, progress.micro_batch_size, rate, progress.step, self._asked_to_stop)
        seconds = time.perf_counter() - started
        progress.step += 1
        progress.tokens += result.tokens
        progress.seconds += seconds
        progress.skipped_in_a_row = 0 if result.applied else progress.skipped_in_a_row + 1
        progress.skipped += not result.applied
        self._write_step(metrics, progress, result, rate, seconds, total)
        if not result.applied:
            report_skipped(self.console, progress, result, examples)
        self._validate_and_save(metrics, progress, total, result.stopping)
        return _note(result, seconds, self.auxiliary)

    def _validate_and_save(self, metrics: MetricsLog, progress: Progress, total: int, stopping: bool) -> None:
        every, processes = self.config.validate_every or self.order.steps_per_epoch, self.stepper.processes
        validating = progress.step % every == 0 or progress.step == total
        due = progress.step % self.config.checkpoint_every == 0 or progress.step == total
        if validating or due or stopping:
            require_finite(self.stepper.engine, progress.step)
        best = validating and self._validate(metrics, progress)
        if validating:  # it takes long: a signal may have come meanwhile, to any process
            stopping = any(processes.all_gather(stopping or self._asked_to_stop()))
        # A new best is checkpointed at once: the best weights on disk are always those that a checkpoint knows of.
        if best or due or stopping:
            self._save(metrics, progress)
        if stopping:
            self.console.say(f"{self.stop.requested or 'a signal'}: step {progress.step} is saved")
            processes.broadcast(None)  # a launcher that sees one process end soon kills the others: not while one saves
            raise KeyboardInterrupt

    def _asked_to_stop(self) -> bool:
        return self.stop.requested is not None

    def _save(self, metrics: MetricsLog, progress: Progress) -> None:
        started = time.perf_counter()
        engine = self.stepper.engine
        folder = self.checkpoints.save_step(progress.step, lambda folder: save_state(engine, progress, folder))
        if self.stepper.processes.main:
            size = sum(path.stat().st_size for path in folder.iterdir())
            seconds = round(time.perf_counter() - started, 4)
            self._write(metrics, {"step": progress.step, "checkpoint_seconds": seconds, "checkpoint_bytes": size})

    def _validate(self, metrics: MetricsLog, progress: Progress) -> bool:
        """Score the validation split; keep the weights and return True if they are the best so far."""
        evaluation = self.validate()
        average, scores = evaluation.average, {task: score["accuracy"] for task, score in evaluation.scores.items()}
        self._write(
            metrics,
            {"step": progress.step, "validation_accuracy": scores, "validation_average": average},
        )
        best = average is None or average > progress.best_score  # where nothing is scored, the last is the best
        if best:
            progress.best_score, progress.best_step = -1.0 if average is None else average, progress.step
            engine = self.stepper.engine
            self.checkpoints.save_best(progress.step, lambda folder: save_weights(engine, folder))
        by_task = ", ".join(f"{task} {100 * value:.1f}" for task, value in scores.items())
        mark = "  best so far" if best else ""
        if average is not None:
            self.console.say(f"step {progress.step}: validation accuracy {100 * average:.1f} ({by_task}){mark}")
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
            **self.load(),
        }
        self._write(metrics, values)

    def _write(self, metrics: MetricsLog, values: dict[str, Any]) -> None:
        metrics.write(**values)
        self.track(values)

    def _load_best(self, progress: Progress) -> None:
        processes, best = self.stepper.processes, self.checkpoints.best(progress.best_step)
        faults = processes.broadcast(list(damage(best)) if processes.main else None)
        if faults:
            self.console.say(f"{best.name} is damaged ({faults[0]}): the weights of the last step are kept instead")
            progress.best_step = progress.step
        else:
            load_weights(self.stepper.engine, best)
            self.console.say(f"kept the weights of step {progress.best_step}")


def _note(result: StepResult, seconds: float, name: str) -> str:
    auxiliary = "" if result.auxiliary is None else f"  {name.replace('_', ' ')} {result.auxiliary:.2f}"
    return f"loss {result.cross_entropy:.3f}{auxiliary}  {result.tokens / seconds:.0f} tokens/s"
