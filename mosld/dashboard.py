"""A saved workspace on Weights & Biases: ``python -m mosld.dashboard``."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from mosld.cli import FlagParser, run_flags
from mosld.common.errors import ExitCode, UserError
from mosld.common.terminal import print_result

DESCRIPTION = """Make a saved workspace on Weights & Biases over mosld's runs: accuracy by method and task, single tasks
against the mixture, sweeps of dropout and rank, loss, expert load.

  python -m mosld.dashboard --entity my-team
  python -m mosld.dashboard --spec workspace.json    # into a file, without a network

Needs the extra `dashboard` (wandb-workspaces)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_flags(dashboard, _parser(), argv)


def dashboard(flags: argparse.Namespace) -> int:
    """Make the workspace and send it, or write it to a file."""
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError("wandb-workspaces is not installed: pip install -c constraints.txt -e '.[dashboard]'")
    # Imports wandb, which takes seconds.
    from mosld.tracking.workspace import make_workspace, send_workspace, write_workspace

    workspace = make_workspace(flags.entity, flags.project, flags.name)
    if not flags.spec:
        print(send_workspace(workspace))
        return ExitCode.FINISHED
    try:
        write_workspace(workspace, flags.spec)
    except OSError as error:
        raise UserError(f"--spec {flags.spec}: cannot be written: {error.strerror}.") from error
    print_result(flags.spec)
    return ExitCode.FINISHED


def _parser() -> FlagParser:
    parser = FlagParser("dashboard", DESCRIPTION)
    parser.add_argument("--project", default="mosld", help="W&B project (default: mosld)")
    parser.add_argument("--entity", default="", help="W&B team or user; default: your own")
    parser.add_argument("--name", default="mosld", help="name of the workspace (default: mosld)")
    parser.add_argument(
        "--spec",
        "--output",
        dest="spec",
        type=Path,
        metavar="FILE",
        help="write the workspace to this file and send nothing",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
