"""Make tables and figures of finished runs: ``python -m mosld.report outputs/``."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mosld.cli import FlagParser, at_least, ending_on_ctrl_c, named_run, run_flags
from mosld.common.errors import ExitCode
from mosld.common.terminal import print_result

USAGE = """Make tables and figures of all finished runs and evaluations below some directories. Nothing is trained or
scored again: everything comes from results.json, predictions/ and metrics.jsonl.

  python -m mosld.report outputs/
  python -m mosld.report outputs/mixture outputs/single_obqa --output my/report --against lora

Prints the tables, says which runs it left out and why, and writes report.html (one file, no network), report.md,
tables/*.csv, tables/*.tex and figures/*.svg, *.png. The last line printed is the page.
Runs that differ only in the seed are averaged; a table has one model, one source and one set of rows."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = shlex.join(["python", "-m", "mosld.report", *(sys.argv[1:] if argv is None else argv)])
    return run_flags(lambda flags: report(flags, command), _parser(), argv)


def report(flags: argparse.Namespace, command: str) -> int:
    """Report on the named runs and print the path of the page.

    Args:
        command: what was typed.
    """
    with ending_on_ctrl_c():
        # It imports numpy.
        from mosld.recipes.report import report_runs
    page = report_runs(
        flags.directories, Path(flags.output), flags.against, flags.resamples, flags.paper, flags.figures, command
    )
    print_result(page)
    return ExitCode.FINISHED


def _parser() -> FlagParser:
    parser = FlagParser("report", USAGE)
    parser.add_argument(
        "directories", metavar="DIR", nargs="+", type=named_run, help="where the runs are, at any depth"
    )
    parser.add_argument("--output", metavar="DIR", default="report", help="where the report goes; default: report")
    parser.add_argument(
        "--against",
        metavar="NAME",
        help="the method or row that others are tested against; default: mosld, or the best on average",
    )
    parser.add_argument(
        "--resamples",
        type=at_least(0),
        default=10_000,
        metavar="N",
        help="of the bootstrap over items; 0: none, and predictions are not read; default: %(default)s",
    )
    parser.add_argument("--paper", action="store_true", help="show the paper's numbers beside ours, errata marked")
    parser.add_argument("--no-figures", dest="figures", action="store_false", help="make tables only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
