"""Merge a plain LoRA into its base model: ``python -m mosld.merge outputs/... --output DIR``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mosld.cli import FlagParser, add_run, ending_on_ctrl_c, run_flags
from mosld.common.errors import ExitCode, UserError
from mosld.config.schema import MethodConfig
from mosld.runs.saved import SavedRun, saved_run

USAGE = """Write base + LoRA as one stand-alone transformers model: safetensors, tokenizer, config.yaml, model card.

  python -m mosld.merge outputs/mixture/smollm2_135m/lora-... --output my/model
  python -m mosld.eval run=my/model

The sum is computed in float32 and rounded once, to the type that is written: with --dtype float32 scores stay equal to
about 1e-3; in bfloat16 3 of 180 answers of the small model changed, all within .3 nats of a tie, as between any two
computations in bfloat16. Methods other than lora have nothing that can be merged.
The last line printed is the directory."""

REFUSED = {
    "quantize": "the adapter was trained on a base of model.quantize={quantize}: packed weights cannot take it in. Use "
    "it as it is, on that base.",
    "full": "nothing to merge: {weights} already is a whole, stand-alone model.",
    "prefix": "method {name} learned keys and values that stand before the text in every layer: no weight holds them.",
    "mixture": "method {name} routes: every token has its own sum of experts, so no one weight matrix can replace "
    "them. Use the adapter as it is (docs/how-to/use_from_python.md), or train method=lora.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_flags(merge, _parser(), argv)


def merge(flags: argparse.Namespace) -> int:
    """The run, its config and a free directory, then model, sum and files."""
    run = saved_run(flags.run)
    replaced = {"path": flags.model_path, "dtype": flags.dtype}
    config = run.config(**{key: value for key, value in replaced.items() if value})
    output = Path(flags.output)
    mistakes = [*_not_mergeable(run, config.method, config.model.quantize), *_not_free(output)]
    if mistakes:
        raise UserError(*mistakes)
    with ending_on_ctrl_c():
        # torch, transformers and peft: only now is everything checked.
        from mosld.recipes.merge import merge_adapter

    merge_adapter(config, run, output)
    print(output)
    return ExitCode.FINISHED


def _not_mergeable(run: SavedRun, method: MethodConfig, quantize: str | None) -> list[str]:
    if run.whole:
        return [REFUSED["full"].format(weights=run.weights)]
    kind = method.kind
    if kind not in REFUSED and quantize:
        kind = "quantize"
    facts = {"name": method.name, "weights": run.weights, "quantize": quantize}
    return [REFUSED[kind].format(**facts)] if kind in REFUSED else []


def _not_free(output: Path) -> list[str]:
    """Why nothing can be written there, if so."""
    try:
        empty = output.is_dir() and not output.is_symlink() and not any(output.iterdir())
        if os.path.lexists(output) and not empty:
            return [f"--output {output}: exists and is not an empty directory; name a new one."]
        parent = next(path for path in output.resolve().parents if path.exists())
    except OSError as error:
        return [f"--output {output}: {error.strerror}."]
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return [f"--output {output}: nothing can be made in {parent}."]
    return []


def _parser() -> FlagParser:
    parser = FlagParser("merge", USAGE)
    add_run(parser)
    parser.add_argument("--output", metavar="DIR", required=True, help="a new directory (or an empty one)")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), help="type of the written weights; default: the run's own"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
