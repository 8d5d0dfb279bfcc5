"""Score a finished run by lm-evaluation-harness, with its own tasks and prompts."""

from mosld.common.errors import UserError
from mosld.common.network import hub_outage
from mosld.common.process import silence_libraries
from mosld.config.rerun import EvalArguments
from mosld.config.schema import Config
from mosld.data.dataset import Dataset
from mosld.evaluation.lm_eval.build import build_task, task_manager
from mosld.evaluation.lm_eval.evaluate import MMLU, merge_subjects, run_lm_eval
from mosld.evaluation.scores import average
from mosld.recipes.evaluate import EvaluationOutput, EvaluationResult
from mosld.recipes.load import load_trained
from mosld.runs.saved import SavedRun

MAX_NAME_CHARACTERS = 120


def evaluate_by_lm_eval(
    config: Config, dataset: Dataset | None, run: SavedRun, arguments: EvalArguments
) -> EvaluationResult:
    """Have lm-eval score the trained model.

    Args:
        dataset: our rows of the tasks; None: lm-eval downloads its own.
        arguments: lm-eval's tasks, and the overrides.
    """
    silence_libraries()
    shots = f"-{config.evaluation.shots}shot" if config.evaluation.shots else ""
    name = f"lm_eval-{'+'.join(arguments.tasks)}"[:MAX_NAME_CHARACTERS] + shots
    data = dataset.describe() if dataset else {"source": config.source.name, "tasks": list(arguments.tasks)}
    output = EvaluationOutput(config, run, name, arguments.overrides, {**data, "name": "lm_eval"}, arguments.output)
    output.results.add(prompt="lm_eval", backend="lm_eval")
    model, tokenizer = load_trained(config.model, run, output.console)
    manager = task_manager(arguments.tasks)
    tasks = [build_task(task, manager, dataset, config.evaluation) for task in arguments.tasks]
    output.console.say(f"lm-eval scores {', '.join(arguments.tasks)}")
    try:
        result = run_lm_eval(
            model,
            tokenizer,
            tasks,
            manager,
            config.evaluation.batch_tokens,
            # The limit was applied to our rows when the tasks were built.
            limit=config.evaluation.limit if dataset is None else None,
            progress=output.console.track("scoring"),
        )
    except OSError as error:
        if dataset is None and (outage := hub_outage()):
            raise UserError(
                f"source=hub: the rows of {', '.join(arguments.tasks)} cannot be fetched. {outage}"
            ) from error
        raise
    if MMLU in arguments.tasks:
        result = merge_subjects(result)
    output.directory.write_predictions(result.records)
    output.results.add(scores=result.scores, average=average(result.scores))
    output.add_model(model)
    output.results.add(lm_eval={"results": result.reported, "versions": result.versions})
    return output.finish()
