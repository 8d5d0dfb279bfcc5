"""The stages of `mosld.eval`, from a checked config to results.json below the run."""

import dataclasses

import yaml

from mosld.adapters.saved import load_adapter
from mosld.cli import FINISHED
from mosld.config import Config
from mosld.data import Dataset
from mosld.data.prompts import PromptEncoder
from mosld.evaluation import Questions, evaluate
from mosld.logging import Console, Results, RunDirectory, SavedRun, results_table
from mosld.logging.atomic import write_text
from mosld.model import load_model
from mosld.quiet import silence_libraries


def score(config: Config, dataset: Dataset, run: SavedRun, overrides: list[str]) -> int:
    """Score the saved adapter, and the model without it where asked; returns the exit code."""
    silence_libraries()
    target = RunDirectory(run.path / "eval" / f"{config.data.name}-{config.prompt}")
    target.path.mkdir(parents=True, exist_ok=True)
    console = Console(target.log)
    results = Results(target, config, overrides, dataset.describe())
    base, tokenizer = load_model(config.model)
    model = load_adapter(base, run.adapter)
    questions = Questions(
        dataset.tasks,
        "test",
        config.evaluation.limit,
        PromptEncoder(tokenizer, config.prompt or config.model.prompt),
    )
    pad, batch_tokens = tokenizer.pad_token_id, config.evaluation.batch_tokens
    if config.evaluation.base:
        with model.disable_adapter():
            before = evaluate(model, questions, pad, batch_tokens, console.track("scoring the untrained model"))
        results.add(base_scores=before.scores, base_average=before.average)
    after = evaluate(model, questions, pad, batch_tokens, console.track("scoring"))
    target.write_predictions(after.records())
    write_text(target.config, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
    tree = results.add(scores=after.scores, average=after.average).write("finished")
    console.show(results_table(tree))
    print(target.path)
    return FINISHED
