"""One training run, from a checked request to results.json, and every way in which it can end.

1. The run directory is locked: a finished run is shown, an unfinished one goes on.
2. The base model is loaded, scored where asked for, and adapted.
3. The loop trains, validates and writes checkpoints.
4. The best weights are scored and saved; results.json is written last.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mosld.adapters.load import Model, parameter_counts
from mosld.common.errors import ExitCode, UserError
from mosld.common.files import disk_is_full
from mosld.common.process import is_distributed, is_main, silence_libraries
from mosld.common.secrets import redact
from mosld.data.leaks import Record
from mosld.data.tokens.encoding import longest
from mosld.distributed.launch import launch
from mosld.distributed.processes import processes
from mosld.evaluation.evaluate import Evaluation, Questions
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.validation import perplexity
from mosld.models.fingerprint import base_fingerprint
from mosld.recipes.context import (
    RunContext,
    add_adapter,
    make_loop,
    prepare,
    readable_tokens,
    refuse_missing_targets,
    refuse_too_long,
)
from mosld.recipes.load import load_base_model
from mosld.recipes.moa import add_task_experts
from mosld.recipes.request import TrainRequest, show_results
from mosld.recipes.save import push_to_hub, save_trained
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.loss_curve import draw_loss_curve
from mosld.runs.record import load_base_scores
from mosld.runs.results import Results
from mosld.runs.routing_watch import draw_routing
from mosld.runs.starting_weights import starting_weights
from mosld.runs.tables import results_table
from mosld.tracking.tracker import NoTracker, Tracker, make_tracker
from mosld.training.loop import DivergedError
from mosld.training.memory import fit_micro_batch
from mosld.training.optim import require_optimizer
from mosld.training.signals import StopSignals

DISK_FULL = (
    "{}: the disk is full, or a file may not grow (ulimit -f); the checkpoints there are whole. Free some space, and "
    "the same command resumes."
)


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        status: "finished", "diverged", "interrupted", or "checked" with check=true.
    """

    status: str
    path: Path

    @property
    def exit_code(self) -> ExitCode:
        codes = {"diverged": ExitCode.DIVERGED, "interrupted": ExitCode.INTERRUPTED}
        return codes.get(self.status, ExitCode.FINISHED)


def train_run(request: TrainRequest, wait: bool = False) -> TrainResult:
    """Train one run and score it; with check=true try the longest micro-batch and stop.

    Args:
        wait: wait for another process that works on the same run instead of refusing.

    Raises:
        UserError: the directory holds another run, the model cannot be had, or memory is too small.
    """
    silence_libraries()
    require_optimizer(request.config.training, processes().device)
    run = request.run
    if request.config.check:
        _check(request)
        return TrainResult("checked", run.path)
    with request.locked(wait):
        finished = processes().broadcast(run.finished())
        if finished:
            show_results(request, finished)
            return TrainResult("finished", run.path)
        return TrainResult(_train(request), run.path)


def _check(request: TrainRequest) -> None:
    """Run everything that can fail before step 1: model, adapter, and the longest micro-batch."""
    config = request.config
    console = Console()
    if is_main():
        request.run.refuse_unusable(config, request.dataset.describe())
    for line in request.dataset.summary():
        console.say(f"  {line}")
    refuse_missing_targets(config)
    refuse_too_long(config, request.dataset, console, trains=True)
    model, tokenizer = load_base_model(config.model, console)
    context = RunContext(config, request.dataset, tokenizer, console, readable_tokens(config.method, model.config))
    # What is too long in a test is said, or refused, here, too.
    context.encode_questions("test", config.evaluation.limit)
    stepper, examples = prepare(context, model)
    context.encode_questions("validation", config.evaluation.validation_limit)
    training = config.training
    rows = fit_micro_batch(stepper, examples, training.micro_batch_size, training.batch_size, console)
    length = len(longest(examples, 1)[0].tokens)
    console.say(f"check passed: the longest micro-batch ({rows} rows, {length} tokens) went forward and backward")


def _train(request: TrainRequest) -> str:
    """Train, score and save; however it ends, results.json is written. Returns the status."""
    run = request.run
    console = Console(run.log)
    results = Results(run, request.config, request.overrides, request.dataset.describe())
    console.log(f"command: {request.command}")
    console.log("versions: " + ", ".join(f"{name} {number}" for name, number in results.tree["versions"].items()))
    tracker: Tracker = NoTracker()
    evaluation, status = None, "failed"
    with StopSignals() as stop:
        try:
            tracker = make_tracker(request.config, run, request.overrides, console)
            evaluation = _train_and_score(request, results, tracker, console, stop)
            status = "finished"
        except KeyboardInterrupt:
            if processes().another_failed():
                # The launcher stops this process because of the other's error.
                raise
            status = "interrupted"
            launcher = " the same launcher and" if is_distributed() else ""
            console.say(f"interrupted; resume from the last checkpoint with{launcher}", request.resume_command)
        except DivergedError as error:
            status = "diverged"
            results.add(error=str(error))
            console.say(f"error: {error}")
        except BaseException as error:
            processes().report_failure()
            results.add(error=redact(f"{type(error).__name__}: {error}"))
            if disk_is_full(error):
                raise UserError(DISK_FULL.format(run.path)) from error
            raise
        finally:
            stop.end()
            if is_main():
                with suppress(OSError):
                    draw_loss_curve(run)
                    draw_routing(run, request.config.logger, request.config.method)
            tracker.finish(_write_results(results, status, console), evaluation.records() if evaluation else None)
    if evaluation:
        console.show(results_table(results.tree))
    console.close()
    return status


def _write_results(results: Results, status: str, console: Console) -> dict:
    """Write results.json; on a full disk say so and return what it would hold."""
    try:
        return results.write(status)
    except OSError as error:
        console.say(f"{results.run.results}: cannot be written: {error.strerror}")
        return results.tree


def _train_and_score(
    request: TrainRequest, results: Results, tracker: Tracker, console: Console, stop: StopSignals
) -> Evaluation:
    config = request.config
    dataset = request.dataset
    run = request.run
    console.say(f"{config.method.name} on {config.model.name}, data {config.data.name} ({dataset.source}), {run.path}")
    if is_distributed():
        console.say(f"  {launch().describe()}")
    for line in dataset.summary():
        console.say(f"  {line}")
    if record := _record(request):
        run.seal.write_json(run.rows, record.tree())
    refuse_missing_targets(config)
    refuse_too_long(config, dataset, console, trains=True)
    model, tokenizer = load_base_model(config.model, console, run.seal.base())
    if is_main() and (fingerprint := base_fingerprint(config.model)):
        run.seal.set_base(fingerprint)
        results.add(base_fingerprint=fingerprint)
    context = RunContext(config, dataset, tokenizer, console, readable_tokens(config.method, model.config))
    test = context.encode_questions("test", config.evaluation.limit)
    if config.evaluation.base:
        results.add(**_score_base(context, model, test, run))
    base_dtype = model.dtype
    by_task = config.method.router == "domain"
    adapt = partial(add_task_experts, run=run, stop=stop) if by_task else add_adapter
    stepper, examples = prepare(context, model, adapt)
    loop = make_loop(context, stepper, examples, run, stop, tracker.step)
    progress = loop.run()
    trained = stepper.finalize(base_dtype)
    use = ExpertUse(config.method.domains)
    evaluation = context.score(trained, test, "scoring", use)
    if use.table():
        run.seal.write_json(run.routing, use.table())
    results.add(
        **use.accuracy(),
        dtype=str(base_dtype).removeprefix("torch."),
        parameters=parameter_counts(trained),
        scores=evaluation.scores,
        average=evaluation.average,
        steps=progress.step,
        skipped_steps=progress.skipped,
        best_step=progress.best_step,
        best_by=loop.best_by,
        stopped_early=progress.step < loop.total_steps,
        validation_average=None if evaluation.average is None else progress.best_score,
        validation_loss=progress.best_loss,
        validation_perplexity=perplexity(progress.best_loss),
        **(loop.routing.latest if loop.routing else {}),
        train_tokens=progress.tokens,
        train_seconds=round(progress.seconds, 3),
        tokens_per_second=round(progress.tokens / progress.seconds, 2),
    )
    if lengthened := run.times_lengthened():
        results.add(lengthened=lengthened)
    run.write_predictions(evaluation.records())
    saved = save_trained(trained, tokenizer, config, run, results.tree, console)
    if config.hub.push_to:
        results.add(pushed_to=push_to_hub(saved, config.hub, config.method.name, console) if is_main() else None)
    return evaluation


def _record(request: TrainRequest) -> Record | None:
    """Which rows the run is trained on, with those of the run that it starts from; None where one is not known."""
    record = request.dataset.record
    weights = starting_weights(request.config)
    if record is None or weights is None:
        return record
    earlier = Record.read(weights.parent / "rows.json")
    return record.joined(earlier) if earlier else None


def _score_base(context: RunContext, model: Model, test: Questions, run: RunDirectory) -> dict:
    """Scores of the untrained model; a resumed run reads them back."""
    whole = run.base_scores.is_file() and not run.seal.faults(run.base_scores.name)
    if recorded := processes().broadcast(load_base_scores(run.base_scores) if whole else None):
        return {**recorded}
    evaluation = context.score(model, test, "scoring the untrained model", trained=False)
    run.write_predictions(evaluation.records(), "base")
    scores = {"base_scores": evaluation.scores, "base_average": evaluation.average}
    run.seal.write_json(run.base_scores, scores)
    return scores
