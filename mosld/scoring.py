"""The stages of `mosld.eval`, from a checked config to results.json below the run."""

import dataclasses
import shutil

import yaml

from mosld.cli import FINISHED
from mosld.config import Config
from mosld.data import Dataset
from mosld.evaluation import ExpertUse
from mosld.logging import Console, Results, RunDirectory, SavedRun, results_table
from mosld.logging.atomic import write_json, write_text
from mosld.quiet import silence_libraries
from mosld.stages import Stages, parameter_counts
from mosld.trained import load_trained, untrained


def score(config: Config, dataset: Dataset, run: SavedRun, overrides: list[str]) -> int:
    """Score what the run trained, and the untrained model where asked; returns the exit code."""
    silence_libraries()
    target = _empty_target(run, f"{config.data.name}-{config.prompt}")
    console = Console(target.log)
    results = Results(target, config, overrides, dataset.describe())
    results.add(name=f"{run.path.resolve().name}/{target.path.name}")
    model, tokenizer = load_trained(config, run)
    stages = Stages(config, dataset, tokenizer, console)
    questions = stages.questions("test", config.evaluation.limit)
    if config.evaluation.base:
        with untrained(config, model) as base:
            before = stages.score(base, questions, "scoring the untrained model")
        target.write_predictions(before.records(), "base")
        results.add(base_scores=before.scores, base_average=before.average)
    use = ExpertUse(config.method.domains)
    after = stages.score(model, questions, "scoring", use)
    target.write_predictions(after.records())
    results.add(scores=after.scores, average=after.average, dtype=str(model.dtype).removeprefix("torch."))
    results.add(parameters=parameter_counts(model), **use.accuracy())
    if use.table():
        write_json(target.routing, use.table())
    write_text(target.config, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
    console.show(results_table(results.write("finished")))
    print(target.path)
    return FINISHED


def _empty_target(run: SavedRun, name: str) -> RunDirectory:
    """The directory of this evaluation, without what an earlier one of the same name left."""
    target = RunDirectory(run.path / "eval" / name)
    target.results.unlink(missing_ok=True)
    shutil.rmtree(target.path / "predictions", ignore_errors=True)
    target.path.mkdir(parents=True, exist_ok=True)
    return target
