"""One training run: from overrides to results.json, and every way in which it can end.

1. Config, launcher and data are checked; nothing heavy is imported yet.
2. The run directory is locked: a finished run is shown, an unfinished one goes on.
3. The base model is loaded, scored where asked for, and adapted.
4. The loop trains, validates and writes checkpoints.
5. The best weights are scored and saved; results.json is written last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mosld.common.errors import ExitCode, UserError
from mosld.common.files import disk_is_full, read_json, write_json
from mosld.common.process import is_main, several, silence_libraries
from mosld.common.secrets import hidden
from mosld.config.compose import load_config
from mosld.config.identity import run_directory
from mosld.config.schema import Config
from mosld.data.dataset import Dataset, load_dataset
from mosld.distributed.launch import launch, require_launch
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.results import Results
from mosld.runs.tables import results_table
from mosld.tracking.hub import require_token

if TYPE_CHECKING:
    from mosld.evaluation.evaluate import Evaluation, Questions
    from mosld.recipes.context import Model, RunContext
    from mosld.tracking.tracker import Tracker
    from mosld.training.signals import StopSignals

DISK_FULL = "{}: the disk is full; the checkpoints there are whole. Free some space, and the same command resumes."


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        status: "finished", "diverged", "interrupted", or "checked" with check=true.
        path: the run directory.
    """

    status: str
    path: Path

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the command."""
        codes = {"diverged": ExitCode.DIVERGED, "interrupted": ExitCode.INTERRUPTED}
        return codes.get(self.status, ExitCode.FINISHED)


def train_run(overrides: list[str], wait: bool = False) -> TrainResult:
    """Train one run and score it.

    Args:
        overrides: Hydra overrides of conf/config.yaml.
        wait: wait for another process that works on the same run instead of refusing.

    Raises:
        UserError: mistakes in the config, the data or the run directory, before a model is loaded.
    """
    config = load_config(overrides)
    require_launch(config)
    dataset = load_dataset(config.data, config.source)
    require_token(config)
    run = RunDirectory(run_directory(config))
    if config.check:
        _check(config, dataset)
        return TrainResult("checked", run.path)
    with _locked(run, config, dataset, wait):
        finished = run.finished()
        if several():
            from mosld.distributed.processes import processes

            finished = processes().broadcast(finished)
        if finished:
            _show_finished(finished, run, score_base=bool(config.evaluation.base))
            return TrainResult("finished", run.path)
        return TrainResult(_train(config, dataset, run, overrides), run.path)


@contextmanager
def _locked(run: RunDirectory, config: Config, dataset: Dataset, wait: bool) -> Iterator[None]:
    """The run directory, locked by the main process as long as the run lasts."""
    if not is_main():
        yield
        return
    with run.locked(wait):
        run.open(config, dataset.describe(), Console().say)
        yield


def _show_finished(results: dict, run: RunDirectory, score_base: bool) -> None:
    console = Console()
    console.say("this run is finished; training.resume=never starts it again from step 0")
    console.show(results_table(results))
    if score_base and "base_scores" not in results:
        console.say(f"to score the untrained model too: python -m mosld.eval run={run.path} evaluation.base=true")


def _check(config: Config, dataset: Dataset) -> None:
    """Run everything that can fail before step 1: data, model, and the longest micro-batch forward and backward."""
    # torch, transformers and peft: only now is everything checked.
    from mosld.recipes.context import RunContext, prepare
    from mosld.recipes.load import load_base_model
    from mosld.training.memory import TRYING, fit_micro_batch

    silence_libraries()
    console = Console()
    model, tokenizer = load_base_model(config.model, console)
    stepper, examples = prepare(RunContext(config, dataset, tokenizer, console), model)
    with console.working(TRYING):
        rows = fit_micro_batch(stepper, examples, config.training.micro_batch_size, config.training.batch_size)
    length = max(len(example.tokens) for example in examples)
    console.say(f"check passed: the longest micro-batch ({rows} rows, {length} tokens) went forward and backward")


def _train(config: Config, dataset: Dataset, run: RunDirectory, overrides: list[str]) -> str:
    """Train, score and save; however it ends, results.json is written. Returns the status."""
    # torch, transformers and peft: only now is everything checked.
    from mosld.distributed.processes import processes
    from mosld.tracking.tracker import NoTracker, make_tracker
    from mosld.training.loop import DivergedError
    from mosld.training.signals import StopSignals

    silence_libraries()
    console = Console(run.log)
    results = Results(run, config, overrides, dataset.describe())
    tracker: Tracker = NoTracker()
    evaluation, status = None, "failed"
    with StopSignals() as stop:
        try:
            tracker = make_tracker(config, run, overrides, console)
            evaluation = _train_and_score(config, dataset, run, results, tracker, console, stop)
            status = "finished"
        except KeyboardInterrupt:
            if processes().another_failed():
                # The launcher stops this process because of the other's error.
                raise
            status = "interrupted"
            console.say("interrupted; the same command resumes from the last checkpoint")
        except DivergedError as error:
            status = "diverged"
            results.add(error=str(error))
            console.say(f"error: {error}")
        except BaseException as error:
            processes().report_failure()
            results.add(error=hidden(f"{type(error).__name__}: {error}"))
            if disk_is_full(error):
                raise UserError(DISK_FULL.format(run.path)) from error
            raise
        finally:
            stop.end()
            tracker.finish(_write_results(results, status, console), evaluation)
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
    config: Config,
    dataset: Dataset,
    run: RunDirectory,
    results: Results,
    tracker: "Tracker",
    console: Console,
    stop: "StopSignals",
) -> "Evaluation":
    from mosld.adapters.load import parameter_counts
    from mosld.evaluation.expert_use import ExpertUse
    from mosld.recipes.context import RunContext, add_adapter, prepare, train_model
    from mosld.recipes.load import load_base_model
    from mosld.recipes.moa import add_task_experts
    from mosld.recipes.save import push_to_hub, save_trained

    console.say(f"{config.method.name} on {config.model.name}, data {config.data.name} ({dataset.source}), {run.path}")
    if several():
        console.say(f"  {launch().describe()}")
    for line in dataset.summary():
        console.say(f"  {line}")
    model, tokenizer = load_base_model(config.model, console)
    context = RunContext(config, dataset, tokenizer, console)
    test = context.encode_questions("test", config.evaluation.limit)
    if config.evaluation.base:
        results.add(**_score_base(context, model, test, run))
    base_dtype = model.dtype
    by_task = config.method.router == "domain"
    adapt = partial(add_task_experts, run=run, stop=stop) if by_task else add_adapter
    stepper, examples = prepare(context, model, adapt)
    progress = train_model(context, stepper, examples, run, stop, tracker.step)
    trained = stepper.finalize(base_dtype)
    use = ExpertUse(config.method.domains)
    evaluation = context.score(trained, test, "scoring", use)
    if use.table():
        write_json(run.routing, use.table())
    results.add(
        **use.accuracy(),
        dtype=str(base_dtype).removeprefix("torch."),
        parameters=parameter_counts(trained),
        scores=evaluation.scores,
        average=evaluation.average,
        steps=progress.step,
        skipped_steps=progress.skipped,
        best_step=progress.best_step,
        validation_average=None if evaluation.average is None else progress.best_score,
        train_tokens=progress.tokens,
        train_seconds=round(progress.seconds, 3),
        tokens_per_second=round(progress.tokens / progress.seconds, 2),
    )
    run.write_predictions(evaluation.records())
    saved = save_trained(trained, tokenizer, config, run, results, console)
    if config.hub.push_to:
        results.add(pushed_to=push_to_hub(saved, config, console) if is_main() else None)
    return evaluation


def _score_base(context: "RunContext", model: "Model", test: "Questions", run: RunDirectory) -> dict:
    """Scores of the untrained model; a resumed run reads them back."""
    from mosld.distributed.processes import processes

    if recorded := processes().broadcast(read_json(run.base_scores)):
        return recorded
    evaluation = context.score(model, test, "scoring the untrained model")
    run.write_predictions(evaluation.records(), "base")
    scores = {"base_scores": evaluation.scores, "base_average": evaluation.average}
    write_json(run.base_scores, scores)
    return scores
