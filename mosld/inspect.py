"""Inspect the adapters of finished runs: ``python -m mosld.inspect outputs/...``."""

import argparse
import sys
from collections.abc import Sequence

from mosld.analysis.selection import select_runs
from mosld.cli import FlagParser, ending_on_ctrl_c, named_run, run_flags
from mosld.common.errors import ExitCode
from mosld.common.terminal import print_result

USAGE = """What the experts of finished runs hold, from their files (no model is loaded): how similar the experts of a
layer are, which experts each task uses, how far tasks differ in that, how much an expert says about the task; and
whether the shared A of mosl or mosld reads what the A's of single-task LoRAs read. Several runs are compared.

  python -m mosld.inspect outputs/mixture/smollm2_135m/mosld-...
  python -m mosld.inspect outputs/mixture/smollm2_135m/mosld-... outputs/single_*/*/lora-... --output inspected

Every mixture can be inspected. A run of method=lora has one A and one B a layer: its A can be compared with that of a
mosl, mosld or hydralora run, or of another LoRA. prefix and full have neither A nor experts.
The last line printed is the directory with inspect.json, inspect.md and the figures (PNG and SVG)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_flags(inspect, _parser(), argv)


def inspect(flags: argparse.Namespace) -> int:
    """Inspect the named runs and print the directory with the results."""
    runs, left_out = select_runs(flags.runs)
    with ending_on_ctrl_c():
        # It imports torch and matplotlib.
        from mosld.recipes.inspect import inspect_runs
    print_result(inspect_runs(runs, left_out, flags.out, flags.evaluation))
    return ExitCode.FINISHED


def _parser() -> FlagParser:
    parser = FlagParser("inspect", USAGE)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=named_run, help="run directories, or adapter directories"
    )
    parser.add_argument(
        "--output", "--out", dest="out", metavar="DIR", help="where to write; default: inspect/ in the first run"
    )
    parser.add_argument(
        "--evaluation",
        metavar="NAME",
        help="read expert use from RUN/eval/NAME, as made by mosld.eval; default: that of the run's own test questions",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
