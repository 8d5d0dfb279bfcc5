"""Look into the adapters of finished runs: ``python -m mosld.inspect outputs/...``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mosld.cli import FlagParser, ending_on_ctrl_c, run_flags
from mosld.common.errors import UserError
from mosld.config.rerun import rerun_config
from mosld.config.schema import Config
from mosld.runs.saved import SavedRun, saved_run

USAGE = """What the experts of finished runs hold, from their files alone (no model is loaded): how alike the experts
of a layer are, which experts each task takes, how far tasks differ in it, how much an expert says of the task; and
whether the shared A of mosl or mosld reads what the A's of single-task LoRAs read. Several runs stand side by side.

  python -m mosld.inspect outputs/mixture/smollm2_135m/mosld-...
  python -m mosld.inspect outputs/mixture/smollm2_135m/mosld-... outputs/single_*/smollm2_135m/lora-... --out looked

Every mixture can be looked at. A run of method=lora has one A and one B a layer: its A can be compared with that of a
mosl, mosld or hydralora run, or of another LoRA. prefix and full have neither A nor experts.
The last line printed is the directory with inspect.json, inspect.md and the figures (PNG and SVG)."""


ALONE = "one A and one B a layer, no experts, no router; its A says something beside that of another run: name one of "
ALONE += "mosl, mosld or hydralora, or of lora on another task, too"
REASONS = {
    "full": "all weights were trained: there is no A, no expert and no router to look at",
    "prefix": "it learned keys and values before the text: there is no A, no expert and no router to look at",
    "lora": ALONE,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_flags(look, _parser(), argv)


def look(flags: argparse.Namespace) -> int:
    """The runs and what can be said of them, then numbers and figures."""
    runs, left_out = _useful(_found([place.removeprefix("run=") for place in flags.runs]))
    if not runs:
        raise UserError(*left_out)
    with ending_on_ctrl_c():  # numpy, torch and matplotlib
        from mosld.recipes.inspect import inspect

    return inspect(runs, left_out, flags.out, flags.evaluation)


def _found(places: Sequence[str]) -> list[tuple[SavedRun, Config]]:
    """The runs with their configs, each once."""
    found: dict[Path, tuple[SavedRun, Config]] = {}
    errors: list[str] = []
    for place in places:
        try:
            run = saved_run(place)
            found.setdefault(run.weights.resolve(), (run, rerun_config(run.recorded, [])))
        except UserError as error:
            errors += error.messages
    if errors:
        raise UserError(*errors)
    return list(found.values())


def _useful(found: Sequence[tuple[SavedRun, Config]]) -> tuple[list[tuple[SavedRun, Config]], list[str]]:
    """The runs that have something to look at, and why the others have not."""
    methods = [config.method for _, config in found]
    one_A = sum(method.kind == "lora" or method.share == "A" for method in methods)
    kinds = ("mixture", "lora") if one_A > 1 else ("mixture",)
    reasons = [
        f"{run.path} ({config.method.name}): {REASONS[config.method.kind]}."
        for run, config in found
        if config.method.kind not in kinds
    ]
    return [pair for pair in found if pair[1].method.kind in kinds], reasons


def _parser() -> FlagParser:
    parser = FlagParser("inspect", USAGE)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run directories, or adapter directories")
    parser.add_argument("--out", metavar="DIR", help="where to write; default: inspect/ in the first run")
    parser.add_argument(
        "--evaluation",
        metavar="NAME",
        help="read expert use from RUN/eval/NAME, as made by mosld.eval; default: that of the run's own test questions",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
