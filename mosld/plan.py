"""What a run would train, without loading anything: ``python -m mosld.plan model=llama2_7b method=mosld``."""

import sys
from collections.abc import Sequence

from mosld.cli import FINISHED, run_command
from mosld.config import UserError, load_config

USAGE = """Count the parameters that a run would train; nothing is loaded or fetched, the shapes stand in conf/model.

  python -m mosld.plan model=llama2_7b method=mosld
  python -m mosld.plan model=llama2_7b method=mosld json=true    # one JSON object

Takes the groups and keys of mosld.train."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(plan, USAGE, argv)


def plan(arguments: list[str]) -> int:
    """Config, shapes, counts."""
    as_json, overrides = split_json(arguments)
    config = load_config(overrides)
    from mosld.planning import estimate, show  # imports torch, transformers and peft: only now is everything checked

    show(estimate(config), as_json)
    return FINISHED


def split_json(arguments: list[str]) -> tuple[bool, list[str]]:
    """Whether `json=true` is among the arguments, and the others.

    Raises:
        UserError: json has another value.
    """
    given = [argument for argument in arguments if argument.startswith("json=")]
    wrong = [argument for argument in given if argument not in ("json=true", "json=false")]
    if wrong:
        raise UserError(f"{wrong[0]}: must be true or false.")
    return "json=true" in given, [argument for argument in arguments if argument not in given]


if __name__ == "__main__":
    sys.exit(main())
