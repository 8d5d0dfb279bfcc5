"""Train an adapter and score it: ``python -m mosld.train method=mosld data=mixture``.

In Python the module is a function, too: ``mosld.train(method="mosld", data="mixture")``.
"""

import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from mosld.cli import run_command, show_config
from mosld.common.errors import ExitCode
from mosld.common.process import is_main
from mosld.common.terminal import print_result
from mosld.config.sweep import is_sweep

if TYPE_CHECKING:
    from mosld.recipes.python_api import TrainedRun

USAGE = """Fine-tune a base model with one method on one data setting, and score it before and after.

  python -m mosld.train method=mosld data=mixture source=local source.root=my/data
  python -m mosld.train -m method.dropout=0.1,0.2 method.rank=4,8   # a sweep: every combination (docs/how-to/sweeps.md)

The same command again resumes the run, or shows its results if it is finished; of a sweep, what is missing. The last
line printed is the run's directory, or the sweep's. Exit codes: 0 finished, 2 a mistake in the arguments or the data,
3 diverged, 4 some jobs of a sweep did not finish, 75 interrupted."""

SWEEP_EXIT_CODES = {
    "finished": ExitCode.FINISHED,
    "interrupted": ExitCode.INTERRUPTED,
    "failed": ExitCode.JOBS_FAILED,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(train, USAGE, argv, output="output_dir")


def train(overrides: list[str]) -> int:
    """Train one run, or every run of a sweep, and print the directory."""
    if show_config(overrides):
        return ExitCode.FINISHED
    if is_sweep(overrides):
        # Hydra's sweepers and launchers take a moment to import.
        from mosld.sweeps.sweep import run_sweep

        swept = run_sweep(overrides)
        if is_main():
            print_result(swept.directory)
        return SWEEP_EXIT_CODES[swept.status]
    # numpy and the tables: help needs neither.
    from mosld.recipes.request import check_request

    request = check_request(overrides)
    if request.show_finished():
        print_result(request.run.path)
        return ExitCode.FINISHED
    # torch, transformers and peft: only now is everything checked.
    from mosld.recipes.train import train_run

    result = train_run(request)
    if is_main() and result.status != "checked":
        print_result(result.path)
    return result.exit_code


class _CallableModule(ModuleType):
    """The type of this module, so that `mosld.train` is a function whether or not the module was imported."""

    def __call__(self, settings: Mapping[str, object] | None = None, /, **overrides: object) -> "TrainedRun":
        from mosld.recipes import python_api

        return python_api.train(settings, **overrides)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    sys.exit(main())
