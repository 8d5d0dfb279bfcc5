"""Score a finished run or a saved adapter on any data: ``python -m mosld.eval run=outputs/... data=single_arc_e``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mosld.cli import run_command
from mosld.common.errors import ExitCode, UserError
from mosld.common.process import is_main
from mosld.common.terminal import print_result
from mosld.config.rerun import eval_arguments, rerun_config, split_runs
from mosld.distributed.launch import require_launch
from mosld.runs.saved import saved_run

USAGE = """Score a finished run, or a saved adapter directory, on the run's own data or any other.

  python -m mosld.eval outputs/... data=single_arc_e evaluation.limit=200
  python -m mosld.eval run=outputs/... model.dtype=bfloat16 compare=model.dtype=float32
  python -m mosld.eval run=outputs/... backend=lm_eval tasks=arc_easy,arc_challenge
  python -m mosld.eval RUN1 RUN2 data=single_arc_e      # one table of paired differences

Writes RUN/eval/<data>-<hash>-<prompt>/results.json and predictions/: other rows, limits or examples have another
directory. What can be set: data, source, prompt, evaluation.*, model.dtype, model.path, logger. source.root=FILE alone
scores your own rows: those of FILE that the run was not trained on. evaluation.base=true also scores the untrained
model; logger=wandb sends the scores to Weights & Biases as a run of their own.

Several runs, named one after the other, are scored on the same rows and compared with the first, item by item.

compare=KEY=VALUE scores once more with another model.dtype, model.attention or evaluation.batch_tokens, and lists the
items that are answered differently, with their margins (differences.jsonl).

backend=lm_eval scores with lm-evaluation-harness (pip install 'mosld[lm-eval]'), with its tasks and prompts. With
source=hub it downloads its own rows; with source=local or bundled it reads the rows of the source, for arc_easy,
arc_challenge, openbookqa, commonsense_qa, gsm8k, mmlu (evaluation.shots=5 for examples) and each mmlu_<subject>. Writes
RUN/eval/lm_eval-<tasks>/ in the same form."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_evaluate, USAGE, argv, output="output")


def _evaluate(arguments: list[str]) -> int:
    runs, others = split_runs(arguments)
    if len(runs) > 1:
        return _compare(runs, others)
    options = eval_arguments([*(f"run={run}" for run in runs), *others])
    if options.output:
        _check_output(Path(options.output))
    # The recipes import torch, transformers and peft: only after everything was checked. Help needs no numpy either.
    if options.backend == "lm_eval":
        from mosld.evaluation.lm_eval.tasks import check_tasks, load_rows

        run = saved_run(options.run)
        # Prompts of mmlu begin with as many examples as ours, whose number needs data=mmlu.
        mmlu = ["data=mmlu"] if any(name.startswith("mmlu") for name in options.tasks) else []
        config = rerun_config(run.recorded, [*mmlu, *options.overrides])
        require_launch(config)
        check_tasks(options.tasks, config.source.name)
        rows = load_rows(options.tasks, config.source, config.evaluation.shots)
        from mosld.recipes.lm_eval import evaluate_by_lm_eval

        result = evaluate_by_lm_eval(config, rows, run, options)
    else:
        from mosld.recipes.request import check_evaluation

        request = check_evaluation(options.run, options.overrides, options.compare)
        from mosld.recipes.evaluate import evaluate_run

        result = evaluate_run(request, options.output)
    if is_main():
        print_result(result.path)
    return ExitCode.FINISHED


def _compare(runs: list[str], overrides: list[str]) -> int:
    # numpy and the tables: help needs neither.
    from mosld.recipes.request import check_evaluation

    requests = [check_evaluation(run, eval_arguments([f"run={run}", *overrides]).overrides) for run in runs]
    from mosld.recipes.compare import compare_runs

    for result in compare_runs(requests):
        if is_main():
            print_result(result.path)
    return ExitCode.FINISHED


def _check_output(directory: Path) -> None:
    """Refuse a directory of `--output` that holds anything but an earlier evaluation."""
    holds_run = (directory / "checkpoints").exists() or not (directory / "results.json").is_file()
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--output {directory}: is a file; name a directory.")
    if directory.is_dir() and any(directory.iterdir()) and holds_run:
        raise UserError(f"--output {directory}: is not empty and holds no evaluation; name a new directory.")


if __name__ == "__main__":
    sys.exit(main())
