"""The stages of `mosld.eval`, from a checked config to results.json below the run."""

import dataclasses
import shutil
from dataclasses import replace
from typing import Any

import yaml

from mosld.adapters.load import parameter_counts
from mosld.common.errors import ExitCode
from mosld.common.files import write_json, write_lines, write_text
from mosld.common.process import is_main, silence_libraries
from mosld.config.rerun import EvalArguments
from mosld.config.schema import Config, EvaluationConfig
from mosld.data.dataset import Dataset
from mosld.data.splits import sample
from mosld.evaluation.compare import differences, differences_table
from mosld.evaluation.evaluate import Evaluation
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.lm_eval import evaluate as harness
from mosld.evaluation.lm_eval.mmlu import GROUP, on_subjects, together
from mosld.evaluation.lm_eval.tasks import KNOWN, published, rows_of, task_manager, task_on_rows
from mosld.evaluation.scores import average
from mosld.recipes.context import RunContext
from mosld.recipes.load import load_trained, untrained
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.results import Results
from mosld.runs.saved import SavedRun
from mosld.runs.tables import results_table
from mosld.tracking.tracker import make_tracker

DIFFERENCES = "differences.jsonl"  # items that a second scoring answers otherwise


def score(config: Config, dataset: Dataset, run: SavedRun, overrides: list[str], other: Config | None = None) -> int:
    """Score what the run trained, and the untrained model where asked; returns the exit code.

    With `other` all is scored once more as that config says, and what is answered otherwise is listed.
    """
    silence_libraries()
    target = _empty_target(run, f"{config.data.name}-{config.prompt}{_shots(config)}")
    console = Console(target.log)
    results = Results(target, config, overrides, dataset.describe())
    results.add(name=f"{run.path.resolve().name}/{target.path.name}")
    model, tokenizer = load_trained(config.model, run, console)
    context = RunContext(config, dataset, tokenizer, console)
    questions = context.encode_questions("test", config.evaluation.limit)
    if config.evaluation.base:
        with untrained(config.model, model) as base:
            before = context.score(base, questions, "scoring the untrained model")
        target.write_predictions(before.records(), "base")
        results.add(base_scores=before.scores, base_average=before.average)
    use = ExpertUse(config.method.domains)
    after = context.score(model, questions, "scoring", use)
    target.write_predictions(after.records())
    results.add(scores=after.scores, average=after.average, dtype=str(model.dtype).removeprefix("torch."))
    results.add(parameters=parameter_counts(model), **use.accuracy())
    if use.table():
        write_json(target.routing, use.table())
    if other is not None:
        again = RunContext(other, dataset, tokenizer, console)
        second = again.score(load_trained(other.model, run, console)[0], questions, "scoring once more")
        found = differences(questions, after, second)
        write_lines(target.path / DIFFERENCES, [dataclasses.asdict(one) for one in found])
        results.add(differing=len(found))
        console.show(differences_table(questions, found))
    return _finish(target, config, results, console, after)


def score_by_harness(config: Config, dataset: Dataset | None, run: SavedRun, given: EvalArguments) -> int:
    """Have lm-evaluation-harness score what the run trained, on own rows or on those that it fetches itself."""
    silence_libraries()
    target = _empty_target(run, f"lm_eval-{'+'.join(given.tasks)}"[:120] + _shots(config))
    console = Console(target.log)
    described = dataset.describe() if dataset else {"source": config.source.name, "tasks": list(given.tasks)}
    results = Results(target, config, given.overrides, described)
    results.add(name=f"{run.path.resolve().name}/{target.path.name}", prompt="lm_eval", backend="lm_eval")
    results.tree["data"]["name"] = "lm_eval"
    model, tokenizer = load_trained(config.model, run, console)
    index = task_manager(given.tasks)
    tasks = [_task(name, index, dataset, config.evaluation) for name in given.tasks]
    console.say(f"lm-evaluation-harness scores {', '.join(given.tasks)}")
    limit = config.evaluation.limit if dataset is None else None  # own rows are taken already
    tokens, progress = config.evaluation.batch_tokens, console.track("scoring")
    verdict = harness.judge(model, tokenizer, tasks, index, tokens, limit, progress)
    verdict = together(verdict) if GROUP in given.tasks else verdict
    target.write_predictions(verdict.records)
    results.add(scores=verdict.scores, average=average(verdict.scores) if verdict.scores else None)
    results.add(parameters=parameter_counts(model), dtype=str(model.dtype).removeprefix("torch."))
    results.add(lm_eval={"results": verdict.reported, "versions": verdict.versions})
    return _finish(target, config, results, console)


def _shots(config: Config) -> str:
    return f"-{config.evaluation.shots}shot" if config.evaluation.shots else ""


def _finish(
    target: RunDirectory, config: Config, results: Results, console: Console, evaluation: Evaluation | None = None
) -> int:
    """Write config and results, send them where asked for, show the table, print where they lie."""
    write_text(target.config, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
    written = results.write("finished")
    job = "eval" if config.logger.job_type == "train" else config.logger.job_type
    sending = replace(config, logger=replace(config.logger, job_type=job, artifact=False))
    make_tracker(sending, target, results.tree["overrides"], console).finish(
        written, evaluation.records() if evaluation else None
    )
    if written["scores"]:  # a task of the harness may have no accuracy
        console.show(results_table(written))
    if is_main():
        print(target.path)
    return ExitCode.FINISHED


def _task(name: str, index: Any, dataset: Dataset | None, evaluation: EvaluationConfig) -> Any:
    """A task of the harness on its own rows, or on ours: with a limit the items that own scoring takes."""
    known, shots = KNOWN.get(name), evaluation.shots
    if dataset is None or known is None:
        return published(name, index, shots if known and known.task == "mmlu" else None)
    data = dataset.tasks[known.task]
    test = sample(rows_of(name, data.test), evaluation.limit, "test")
    if known.group:
        return on_subjects(index, test, data.examples, shots)
    if known.subject:
        splits = {"test": test, **({"examples": data.examples[known.subject]} if shots else {})}
        return task_on_rows(name, index, splits, shots)
    return task_on_rows(name, index, {"test": test, **({"examples": data.train} if known.trained else {})})


def _empty_target(run: SavedRun, name: str) -> RunDirectory:
    """The directory of this evaluation, without what an earlier one of the same name left."""
    target = RunDirectory(run.path / "eval" / name)
    if not is_main():
        return target
    for path in (target.results, target.path / DIFFERENCES):
        path.unlink(missing_ok=True)
    shutil.rmtree(target.path / "predictions", ignore_errors=True)
    target.path.mkdir(parents=True, exist_ok=True)
    return target
