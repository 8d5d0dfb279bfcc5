"""Train an adapter and score it: ``python -m mosld.train method=mosld data=mixture``."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mosld.cli import FINISHED, run_command
from mosld.common.process import is_main, several
from mosld.config.compose import load_config
from mosld.config.identity import run_directory
from mosld.config.schema import Config
from mosld.config.sweep import is_sweep
from mosld.data.dataset import Dataset, load_dataset
from mosld.distributed.launch import require_launch
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.tables import results_table
from mosld.tracking.hub import require_token

USAGE = """Fine-tune a base model with one method on one data setting, and score it before and after.

  python -m mosld.train method=mosld data=mixture source=local source.root=my/data
  python -m mosld.train -m method.dropout=0.1,0.2 method.rank=4,8    # a sweep: every combination (docs/sweeps.md)

The same command again resumes the run, or shows its results if it is finished; of a sweep, what is missing. The last
line printed is the run's directory, or the sweep's. Exit codes: 0 finished, 2 a mistake in the arguments or the data,
3 diverged, 4 some jobs of a sweep did not finish, 75 interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(train, USAGE, argv)


def train(arguments: list[str]) -> int:
    """One run, or every run of a sweep."""
    if is_sweep(arguments):
        from mosld.sweeps.sweep import sweep

        return sweep(arguments)
    return train_one(arguments)


def train_one(overrides: list[str], waits: bool = False) -> int:
    """Config, data, then the heavy stages: model, adapter, training, evaluation.

    Args:
        overrides: of the config.
        waits: wait for another process that works on the same run, and do not refuse.
    """
    config = load_config(overrides)
    require_launch(config)
    dataset = load_dataset(config.data, config.source)
    require_token(config)
    run = RunDirectory(run_directory(config))
    if config.check:
        from mosld.recipes.train import check

        return check(config, dataset)
    with _opened(run, config, dataset, waits):
        finished = run.finished()
        if several():
            from mosld.distributed.processes import processes

            finished = processes().broadcast(finished)
        if finished:
            return _show(finished, run, config)
        from mosld.recipes.train import fit  # imports torch, transformers and peft: only now is everything checked

        return fit(config, dataset, run, overrides)


@contextmanager
def _opened(run: RunDirectory, config: Config, dataset: Dataset, waits: bool) -> Iterator[None]:
    """The run directory, held by the main process as long as the run lasts."""
    if not is_main():
        yield
        return
    with run.locked(waits):
        run.open(config, dataset.describe(), Console().say)
        yield


def _show(finished: dict[str, Any], run: RunDirectory, config: Config) -> int:
    console = Console()
    console.say("this run is finished; training.resume=never starts it anew")
    console.show(results_table(finished))
    if config.evaluation.base and "base_scores" not in finished:
        console.say(f"to score the untrained model too: python -m mosld.eval run={run.path} evaluation.base=true")
    if is_main():
        print(run.path)
    return FINISHED


if __name__ == "__main__":
    sys.exit(main())
