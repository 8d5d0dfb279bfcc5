"""A training run from a checked config to results.json, one stage a line, and every way in which it can end."""

from typing import Any

from mosld.adapters.load import parameter_counts
from mosld.cli import DIVERGED, FINISHED, INTERRUPTED
from mosld.common.errors import UserError
from mosld.common.files import disk_is_full, write_json
from mosld.common.process import is_main, several, silence_libraries
from mosld.common.secrets import hidden
from mosld.config.schema import Config
from mosld.data.dataset import Dataset
from mosld.distributed.launch import launch
from mosld.distributed.processes import processes
from mosld.evaluation.evaluate import Evaluation
from mosld.evaluation.expert_use import ExpertUse
from mosld.recipes.context import Stages, load_on_device
from mosld.recipes.moa import adapt_domains
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.results import Results
from mosld.runs.tables import results_table
from mosld.tracking.tracker import NoTracker, Tracker, make_tracker
from mosld.training.loop import DivergedError
from mosld.training.memory import TRYING, fit_micro_batch
from mosld.training.signals import StopSignals

FULL = "{}: no room is left on its disk; the checkpoints there are whole. Make room, and the same command goes on."
EXIT_CODES = {"finished": FINISHED, "diverged": DIVERGED, "interrupted": INTERRUPTED}


def fit(config: Config, dataset: Dataset, run: RunDirectory, overrides: list[str]) -> int:
    """Train, score and save; every way to end leaves a results.json. Returns the exit code."""
    silence_libraries()
    console = Console(run.log)
    results = Results(run, config, overrides, dataset.describe())
    tracker: Tracker = NoTracker()
    evaluation, status = None, "failed"
    with StopSignals() as stop:
        try:
            tracker = make_tracker(config, run, overrides, console)
            evaluation = _run(config, dataset, run, results, tracker, console, stop)
            status = "finished"
        except KeyboardInterrupt:
            if processes().another_failed():  # its launcher stops this one
                raise
            status = "interrupted"
            console.say("interrupted; the same command goes on from the last checkpoint")
        except DivergedError as error:
            status = "diverged"
            results.add(error=str(error))
            console.say(f"error: {error}")
        except BaseException as error:
            processes().report_failure()
            results.add(error=hidden(f"{type(error).__name__}: {error}"))
            if disk_is_full(error):
                raise UserError(FULL.format(run.path)) from error
            raise
        finally:
            stop.end()
            tracker.finish(_written(results, status, console), evaluation)
    if evaluation:
        console.show(results_table(results.tree))
    console.close()
    if is_main():
        print(run.path)
    return EXIT_CODES[status]


def _written(results: Results, status: str, console: Console) -> dict[str, Any]:
    """What results.json says, and the file, where there is room for it."""
    try:
        return results.write(status)
    except OSError as error:
        console.say(f"{results.run.results}: cannot be written: {error.strerror}")
        return results.tree


def check(config: Config, dataset: Dataset) -> int:
    """Everything that can go wrong before step 1: config, data, model, and the longest batch forward and backward."""
    silence_libraries()
    console = Console()
    model, tokenizer = load_on_device(config, console)
    stages = Stages(config, dataset, tokenizer, console)
    examples = stages.encode_train()
    stepper = stages.make_stepper(stages.adapt(model), model.dtype)
    with console.working(TRYING):
        rows = fit_micro_batch(stepper, examples, config.training.micro_batch_size, config.training.batch_size)
    length = max(len(example.tokens) for example in examples)
    console.say(f"check passed: the longest micro-batch ({rows} rows, {length} tokens) went forward and backward")
    return FINISHED


def _run(
    config: Config,
    dataset: Dataset,
    run: RunDirectory,
    results: Results,
    tracker: Tracker,
    console: Console,
    stop: StopSignals,
) -> Evaluation:
    console.say(f"{config.method.name} on {config.model.name}, data {config.data.name} ({dataset.source}), {run.path}")
    if several():
        console.say(f"  {launch().describe()}")
    for line in dataset.summary():
        console.say(f"  {line}")
    model, tokenizer = load_on_device(config, console)
    stages = Stages(config, dataset, tokenizer, console, stop)
    test = stages.questions("test", config.evaluation.limit)
    if config.evaluation.base:
        results.add(**stages.base_scores(model, test, run))
    dtype = model.dtype  # full fine-tuning trains a float32 copy and saves this type
    by_domain = config.method.router == "domain"
    model = adapt_domains(stages, model, run) if by_domain else stages.adapt(model)
    stepper = stages.make_stepper(model, dtype)
    progress = stages.make_loop(stepper, run, tracker).run()
    trained = stages.settle(stepper, dtype)
    use = ExpertUse(config.method.domains)
    evaluation = stages.score(trained, test, "scoring", use)
    if use.table():
        write_json(run.routing, use.table())
    results.add(
        **use.accuracy(),
        dtype=str(dtype).removeprefix("torch."),
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
    saved = stages.save_trained(trained, run, results)
    if config.hub.push_to:
        results.add(pushed_to=stages.push(saved))
    return evaluation
