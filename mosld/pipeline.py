"""The stages of a training run, from a checked config to results.json."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from mosld.adapters import adapt_with
from mosld.cli import DIVERGED, FINISHED, INTERRUPTED
from mosld.config import Config
from mosld.data import Dataset
from mosld.data.batches import Example, Order, encode_train
from mosld.data.prompts import PromptEncoder
from mosld.evaluation import Evaluation, Questions, evaluate
from mosld.logging import Console, Results, RunDirectory, results_table
from mosld.logging.atomic import write_json
from mosld.logging.manifest import write_manifest
from mosld.logging.model_card import write_model_card
from mosld.model import load_model
from mosld.quiet import silence_libraries
from mosld.training import Checkpoints, DivergedError, Loop, Stepper, make_optimizer, trained_parameters


def fit(config: Config, dataset: Dataset, run: RunDirectory, overrides: list[str]) -> int:
    """Train, score and save; every way to end leaves a results.json. Returns the exit code."""
    silence_libraries()
    console = Console(run.log)
    results = Results(run, config, overrides, dataset.describe())
    with _recorded(results, console) as ended:
        _announce(console, config, dataset, run)
        model, tokenizer = load_model(config.model)
        encoder = PromptEncoder(tokenizer, config.prompt or config.model.prompt)
        test = Questions(dataset.tasks, "test", config.evaluation.limit, encoder)
        if config.evaluation.base:
            results.add(**_base_scores(config, run, model, test, tokenizer, console))
        stepper, examples, order = _prepare(config, dataset, model, encoder, console)
        results.add(parameters=_count(stepper.model), dtype=str(model.dtype).removeprefix("torch."))
        progress = _loop(config, dataset, run, stepper, examples, order, encoder, console).run()
        after = _score(stepper.model, test, tokenizer, config, console, "scoring")
        run.write_predictions({task: [p.as_json() for p in found] for task, found in after.predictions.items()})
        results.add(
            scores=after.scores,
            average=after.average,
            steps=progress.step,
            best_step=progress.best_step,
            validation=progress.best_score,
            train_tokens=progress.tokens,
            tokens_per_second=round(progress.tokens / progress.seconds, 2),
        )
        _save_adapter(config, run, stepper.model, results)
        ended(results.write("finished"))
    console.close()
    return results.tree["exit_code"]


def check(config: Config, dataset: Dataset) -> int:
    """Everything that can go wrong before step 1: config, data, model, and the longest batch forward and backward."""
    silence_libraries()
    console = Console()
    model, tokenizer = load_model(config.model)
    encoder = PromptEncoder(tokenizer, config.prompt or config.model.prompt)
    stepper, examples, _ = _prepare(config, dataset, model, encoder, console)
    rows, length = stepper.try_longest(examples, config.training.micro_batch_size)
    console.say(f"check passed: the longest micro-batch ({rows} rows, {length} tokens) went forward and backward")
    return FINISHED


@contextmanager
def _recorded(results: Results, console: Console) -> Iterator[Any]:
    """Write results.json however the run ends; yields what shows the results of a finished one."""

    def finished(tree: dict[str, Any]) -> None:
        console.show(results_table(tree))
        print(results.run.path)
        results.tree["exit_code"] = FINISHED

    try:
        yield finished
    except KeyboardInterrupt:
        results.tree["exit_code"] = INTERRUPTED
        results.write("interrupted")
        console.say("interrupted; the same command goes on from the last checkpoint")
    except DivergedError as error:
        results.tree["exit_code"] = DIVERGED
        results.add(error=str(error))
        results.write("diverged")
        console.say(f"error: {error}")
    except BaseException as error:
        results.add(error=f"{type(error).__name__}: {error}")
        results.write("failed")
        raise


def _announce(console: Console, config: Config, dataset: Dataset, run: RunDirectory) -> None:
    console.say(f"{config.method.name} on {config.model.name}, data {config.data.name} ({dataset.source})")
    for task, counts in dataset.counts().items():
        console.say(f"  {task}: {counts['train']} train, {counts['validation']} validation, {counts['test']} test rows")
    for note in dataset.notes:
        console.say(f"  note: {note}")
    console.say(f"run directory: {run.path}")


def _prepare(
    config: Config, dataset: Dataset, model: Any, encoder: PromptEncoder, console: Console
) -> tuple[Stepper, list[Example], Order]:
    """The adapted model with its optimiser, the train rows as tokens, and their order."""
    training, tokenizer = config.training, encoder.tokenizer
    examples, cut = encode_train(dataset.train, encoder, tokenizer.eos_token_id)
    if cut:
        console.say(f"{cut} of {len(examples)} train rows had their passage cut to the task's cutoff")
    set_seed(config.seed)
    adapted = adapt_with(model, config.method, config.allocation, config.seed)
    if training.gradient_checkpointing:
        adapted.gradient_checkpointing_enable({"use_reentrant": False})
    count = _count(adapted)
    console.say(
        f"trainable parameters: {count['trainable']:,} of {count['total']:,} "
        f"({100 * count['trainable'] / count['total']:.3f} %)"
    )
    accelerator = Accelerator(mixed_precision="no")
    prepared = accelerator.prepare_model(adapted)
    optimizer = make_optimizer(prepared, training)
    weight = config.method.balance_weight if config.method.balance != "none" else 0.0
    stepper = Stepper(prepared, optimizer, accelerator, tokenizer.pad_token_id, training.max_grad_norm, weight)
    return stepper, examples, Order(len(examples), training.batch_size, config.seed)


def _loop(
    config: Config,
    dataset: Dataset,
    run: RunDirectory,
    stepper: Stepper,
    examples: list[Example],
    order: Order,
    encoder: PromptEncoder,
    console: Console,
) -> Loop:
    validation = Questions(dataset.tasks, "validation", config.evaluation.validation_limit, encoder)
    tuner = stepper.model.base_model

    def load() -> dict[str, list[float]]:
        shares = tuner.pop_load() if hasattr(tuner, "pop_load") else {}
        return {module: [round(share, 4) for share in found.tolist()] for module, found in shares.items()}

    return Loop(
        stepper=stepper,
        examples=examples,
        order=order,
        config=config.training,
        validate=lambda: _score(stepper.model, validation, encoder.tokenizer, config, console, "validating"),
        load=load,
        checkpoints=Checkpoints(run.checkpoints, config.training.keep_last),
        metrics_path=run.metrics,
        every=config.logger.every,
        console=console,
    )


def _base_scores(
    config: Config, run: RunDirectory, model: Any, test: Questions, tokenizer: Any, console: Console
) -> dict[str, Any]:
    """Scores of the untrained model; a resumed run reads them back."""
    if run.base_scores.is_file():
        return json.loads(run.base_scores.read_text())
    before = _score(model, test, tokenizer, config, console, "scoring the untrained model")
    found = {"base_scores": before.scores, "base_average": before.average}
    run.write_predictions({task: [p.as_json() for p in got] for task, got in before.predictions.items()}, "base")
    write_json(run.base_scores, found)
    return found


def _score(
    model: Any, questions: Questions, tokenizer: Any, config: Config, console: Console, title: str
) -> Evaluation:
    return evaluate(model, questions, tokenizer.pad_token_id, config.evaluation.batch_tokens, console.track(title))


def _save_adapter(config: Config, run: RunDirectory, model: Any, results: Results) -> None:
    """The best adapter in PEFT's format, whole or not there."""
    aside = run.path / f".adapter-{os.getpid()}"
    model.save_pretrained(aside)
    shutil.copy(run.config, aside / "config.yaml")
    write_model_card(aside, config, results.tree)
    write_manifest(aside)
    if run.adapter.exists():
        shutil.rmtree(run.adapter)
    aside.rename(run.adapter)


def _count(model: Any) -> dict[str, int]:
    trainable = sum(parameter.numel() for parameter in trained_parameters(model).values())
    return {"trainable": trainable, "total": sum(parameter.numel() for parameter in model.parameters())}
