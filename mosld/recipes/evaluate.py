"""Score a finished run, from a checked config to results.json in a directory below the run."""

import dataclasses
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from mosld.adapters.load import Model, parameter_counts
from mosld.common.process import is_main, silence_libraries
from mosld.common.seal import seal_of
from mosld.config.schema import Config, DataConfig, EvaluationConfig
from mosld.data.dataset import Dataset
from mosld.evaluation.compare import differences, differences_table
from mosld.evaluation.evaluate import Evaluation
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.forward import context_length
from mosld.recipes.context import RunContext, refuse_too_long
from mosld.recipes.load import load_trained, untrained
from mosld.recipes.request import EvaluationRequest
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.results import Results
from mosld.runs.saved import SavedRun
from mosld.runs.tables import results_table
from mosld.tracking.tracker import make_tracker

MAX_NAME_CHARACTERS = 40
# The items that a second scoring answers differently.
DIFFERENCES = "differences.jsonl"


@dataclass(frozen=True)
class EvaluationResult:
    """A finished evaluation: its directory, and the content of its results.json."""

    path: Path
    results: dict[str, object]


class EvaluationOutput:
    """The files of one evaluation: the log, the predictions, and results.json at the end."""

    def __init__(
        self,
        config: Config,
        run: SavedRun,
        name: str,
        overrides: list[str],
        data: dict[str, object],
        output: str | None = None,
    ) -> None:
        """Take RUN/eval/<name> (see `SavedRun.output`), or `output`, without what an earlier evaluation left there.

        Args:
            overrides: what the user typed, for results.json.
            data: description of the rows, for results.json.
            output: the directory that the user named.
        """
        self.config = config
        target = Path(output) if output else run.output("eval") / name
        self.directory = RunDirectory(target, seal_of(target).root)
        if is_main():
            stale = (self.directory.results, self.directory.path / DIFFERENCES, self.directory.path / "predictions")
            self.directory.seal.remove(*stale)
            self.directory.path.mkdir(parents=True, exist_ok=True)
        self.console = Console(self.directory.log)
        self.results = Results(self.directory, config, overrides, data)
        self.results.add(name=f"{run.path.resolve().name}/{self.directory.path.name}")

    def add_model(self, model: Model) -> None:
        """Add the model's dtype and parameter counts to the results."""
        self.results.add(dtype=str(model.dtype).removeprefix("torch."), parameters=parameter_counts(model))

    def finish(self, evaluation: Evaluation | None = None) -> EvaluationResult:
        """Write config and results, send them to the tracker, show the table."""
        config = self.config
        text = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
        self.directory.seal.write_text(self.directory.config, text)
        results = self.results.write("finished")
        job_type = "eval" if config.logger.job_type == "train" else config.logger.job_type
        config = replace(config, logger=replace(config.logger, job_type=job_type, artifact=False))
        tracker = make_tracker(config, self.directory, results["overrides"], self.console)
        tracker.finish(results, evaluation.records() if evaluation else None)
        # A task of lm-eval may have no accuracy.
        if results["scores"]:
            self.console.show(results_table(results))
        return EvaluationResult(self.directory.path, results)


def evaluation_name(dataset: Dataset, data: DataConfig, evaluation: EvaluationConfig, prompt: str | None) -> str:
    """The directory of an evaluation below the run: the same for the same rows and settings, another for others.

    <data>-<hash>-<prompt>, the data being the names of the user's tasks; the hash is of the rows, and of how many of
    them are scored after how many examples.
    """
    name = data.name if data.kind == "benchmarks" else "+".join(dataset.tasks)[:MAX_NAME_CHARACTERS]
    counted = (dataset.fingerprint, evaluation.limit, evaluation.shots)
    shots = f"-{evaluation.shots}shot" if evaluation.shots else ""
    return f"{name}-{hashlib.sha256(repr(counted).encode()).hexdigest()[:8]}-{prompt}{shots}"


def evaluate_run(request: EvaluationRequest, output_directory: str | None = None) -> EvaluationResult:
    """Score the trained model, and the untrained one where the config asks for it.

    With `request.compared` it is scored once more, and the items that are answered differently are listed.

    Args:
        request: the run, its config and the rows.
        output_directory: where to write; None: below the run.
    """
    silence_libraries()
    config, dataset, run, compared = request.config, request.dataset, request.run, request.compared
    name = evaluation_name(dataset, config.data, config.evaluation, config.prompt)
    output = EvaluationOutput(config, run, name, request.overrides, dataset.describe(), output_directory)
    directory = output.directory
    for line in dataset.summary():
        output.console.say(f"  {line}")
    refuse_too_long(config, dataset, output.console, trains=False)
    model, tokenizer = load_trained(config.model, run, output.console)
    context = RunContext(config, dataset, tokenizer, output.console, context_length(model))
    questions = context.encode_questions("test", config.evaluation.limit)
    if config.evaluation.base:
        with untrained(config.model, model, run) as base:
            base_evaluation = context.score(base, questions, "scoring the untrained model", trained=False)
        directory.write_predictions(base_evaluation.records(), "base")
        output.results.add(base_scores=base_evaluation.scores, base_average=base_evaluation.average)
    expert_use = ExpertUse(config.method.domains)
    evaluation = context.score(model, questions, "scoring", expert_use)
    directory.write_predictions(evaluation.records())
    output.results.add(scores=evaluation.scores, average=evaluation.average)
    output.add_model(model)
    output.results.add(**expert_use.accuracy())
    if routing := expert_use.table():
        directory.seal.write_json(directory.routing, routing)
    if compared is not None:
        compared_model, _ = load_trained(compared.model, run, output.console)
        context = RunContext(compared, dataset, tokenizer, output.console)
        second = context.score(compared_model, questions, "scoring once more")
        changed = differences(questions, evaluation, second)
        directory.seal.write_lines(directory.path / DIFFERENCES, [dataclasses.asdict(one) for one in changed])
        output.results.add(differing=len(changed))
        output.console.show(differences_table(questions, changed))
    return output.finish(evaluation)
