"""Check that runs are what they were when they were made: ``python -m mosld.verify outputs/...``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mosld.cli import FlagParser, at_least, ending_on_ctrl_c, run_flags
from mosld.common.errors import ExitCode

USAGE = """Check that finished and unfinished runs are whole and agree with themselves. Nothing is trained or scored.

  python -m mosld.verify outputs/mixture/smollm2_135m/mosld-...
  python -m mosld.verify outputs/                       # all runs below
  python -m mosld.verify RUN --replay 20                # train 20 steps again between checkpoints, compare all bits
  python -m mosld.verify RUN --accept config.yaml       # after an edit of your own: seal the file as it is

Checked: every file against manifest.json, what was added, whose results they are, the rows and the base model if they
are on this machine, and the scores, computed again from the predictions. Prints a table. Exit code 0: nothing is wrong;
1: something is, and the table says what."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_flags(verify, _parser(), argv)


def verify(flags: argparse.Namespace) -> int:
    """Check the named runs and print a table of each."""
    with ending_on_ctrl_c():
        # It imports torch and transformers.
        from mosld.recipes.verify import accept_edits, verify_runs
    if flags.accept:
        accept_edits(Path(flags.directory), flags.accept)
    whole = verify_runs(Path(flags.directory), flags.replay)
    return ExitCode.FINISHED if whole else ExitCode.FAULTS_FOUND


def _parser() -> FlagParser:
    parser = FlagParser("verify", USAGE)
    parser.add_argument("directory", metavar="RUN", help="a run directory, or a directory with runs at any depth")
    parser.add_argument(
        "--accept",
        metavar="FILE",
        action="append",
        help="a file or folder of RUN, which is sealed as it is, or as gone; manifest.json: all of them",
    )
    parser.add_argument(
        "--replay", type=at_least(0), default=0, metavar="K", help="steps to train again, at least; default: none"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
