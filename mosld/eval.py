"""Score a finished run or a saved adapter on any data: ``python -m mosld.eval run=outputs/... data=single_arc_e``."""

import sys
from collections.abc import Sequence

from mosld.cli import run_command
from mosld.config import require_run, rerun_config
from mosld.data import load_dataset
from mosld.logging import saved_run

USAGE = """Score a finished run, or a saved adapter directory, on the run's own data or any other.

  python -m mosld.eval run=outputs/... data=single_arc_e evaluation.limit=200

Writes RUN/eval/<data>-<prompt>/results.json and predictions/. What can be set: data, source, prompt, evaluation.*,
model.dtype, model.path. evaluation.base=true scores the untrained model beside it."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(evaluate_run, USAGE, argv)


def evaluate_run(arguments: list[str]) -> int:
    """The run's config with overrides, the test rows, then model and scores."""
    place, overrides = require_run(arguments)
    run = saved_run(place)
    config = rerun_config(run.recorded, overrides)
    dataset = load_dataset(config.data, config.source, training=False)
    from mosld.scoring import score  # imports torch, transformers and peft: only now is everything checked

    return score(config, dataset, run, overrides)


if __name__ == "__main__":
    sys.exit(main())
