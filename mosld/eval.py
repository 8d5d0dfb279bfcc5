"""Score a finished run or a saved adapter on any data: ``python -m mosld.eval run=outputs/... data=single_arc_e``."""

import sys
from collections.abc import Sequence

from mosld.cli import run_command
from mosld.config.rerun import EvalArguments, eval_arguments, rerun_config
from mosld.config.schema import Config
from mosld.data.dataset import load_dataset
from mosld.distributed.launch import require_launch
from mosld.runs.saved import SavedRun, saved_run

USAGE = """Score a finished run, or a saved adapter directory, on the run's own data or any other.

  python -m mosld.eval run=outputs/... data=single_arc_e evaluation.limit=200
  python -m mosld.eval run=outputs/... model.dtype=bfloat16 compare=model.dtype=float32
  python -m mosld.eval run=outputs/... backend=lm_eval tasks=arc_easy,arc_challenge

Writes RUN/eval/<data>-<prompt>/results.json and predictions/. What can be set: data, source, prompt, evaluation.*,
model.dtype, model.path, logger. evaluation.base=true scores the untrained model beside it; logger=wandb sends the
scores to Weights & Biases, as a run of its own.

compare=KEY=VALUE scores once more with another model.dtype, model.attention or evaluation.batch_tokens, and lists every
item that is answered otherwise, with its margins (differences.jsonl).

backend=lm_eval has lm-evaluation-harness score (pip install 'mosld[lm-eval]'), by its own tasks and prompts. With
source=hub it fetches its own rows; with source=local or bundled it reads those of the source, for arc_easy,
arc_challenge, openbookqa, commonsense_qa, gsm8k, mmlu (evaluation.shots=5 for examples) and each mmlu_<subject>. Writes
RUN/eval/lm_eval-<tasks>/ in the same form."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(evaluate_run, USAGE, argv)


def evaluate_run(arguments: list[str]) -> int:
    """The run's config with overrides, the test rows, then model and scores."""
    given = eval_arguments(arguments)
    run = saved_run(given.run)
    # The harness's prompts of mmlu begin with as many examples as ours: the same key says how many.
    of_mmlu = ["data=mmlu"] if any(name.startswith("mmlu") for name in given.tasks) else []
    config = rerun_config(run.recorded, [*of_mmlu, *given.overrides])
    require_launch(config)
    if given.backend == "lm_eval":
        return _by_the_harness(config, given, run)
    other = rerun_config(run.recorded, [*given.overrides, given.compare]) if given.compare else None
    dataset = load_dataset(config.data, config.source, training=False, shots=config.evaluation.shots)
    from mosld.recipes.evaluate import score  # imports torch, transformers and peft: only now is everything checked

    return score(config, dataset, run, given.overrides, other)


def _by_the_harness(config: Config, given: EvalArguments, run: SavedRun) -> int:
    from mosld.evaluation.lm_eval.tasks import check_tasks, own_rows

    check_tasks(given.tasks, config.source.name)
    rows = own_rows(given.tasks, config.source, config.evaluation.shots)
    from mosld.recipes.evaluate import score_by_harness

    return score_by_harness(config, rows, run, given)


if __name__ == "__main__":
    sys.exit(main())
