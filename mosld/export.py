"""Write what a run trained for other software: ``python -m mosld.export outputs/... as=lora output=DIR``."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mosld.cli import FlagParser, add_run, at_least, base_model, ending_on_ctrl_c, run_flags
from mosld.common.errors import ExitCode, UserError, nearest
from mosld.common.files import read_json
from mosld.common.reading import load_yaml
from mosld.common.terminal import print_result
from mosld.config.identity import results_keys
from mosld.config.method_checks import PISSA
from mosld.config.rerun import rerun_config
from mosld.config.schema import Config
from mosld.runs.saved import SavedRun, saved_run

FORMS = ("model", "lora", "merged", "gguf")
USAGE = """Write what a run trained in a form that transformers, vLLM, PEFT, Ollama or llama.cpp read without mosld.

  python -m mosld.export outputs/mixture/smollm2_135m/mosld-... as=model output=my/model
  python -m mosld.export outputs/mixture/smollm2_135m/mosld-... as=lora per=task output=my/loras

as=model    a mixture as it is, as one transformers model with its own short modelling file
as=lora     one plain LoRA: exact for method=lora, and for each expert of method=moa; for other mixtures, to which no
            LoRA is equal, the nearest one on train rows of the run, with its error on rows that it has not seen
as=merged   that LoRA added to the base's weights: a stand-alone model (the sum is computed in float32, rounded once)
as=gguf     that LoRA as a GGUF file for llama.cpp and Ollama

Keys are written key=value or --key value. The last line printed is the directory."""

REFUSED = {
    "quantize": "the adapter was trained on a base of model.quantize={quantize}: packed weights cannot take it in. Use "
    "it as it is, on that base, or export as=lora.",
    "full": "nothing to export: {weights} already is a whole, stand-alone model.",
    "prefix": "method {name} learned keys and values that stand before the text in every layer: no weight holds them, "
    "so it is no LoRA. PEFT loads {weights} as it is.",
    "diverged": "{path} diverged ({error}): there is nothing to export; train it again with a lower "
    "training.learning_rate.",
    "other": "{weights} is the adapter of another run: its config.yaml differs from {path}/config.yaml in {keys}. Name "
    "the adapter's directory itself, or copy back the run's own.",
    "model": "as=model: a plain LoRA can be merged exactly; take as=merged.",
    "dora": "as={form}: method.dora=true learns the length of each output's weight, too, which is no A and B. PEFT "
    "loads {weights} as it is, and its merge_and_unload() makes one model of base and adapter.",
    "pissa": "as={form}: method.init=pissa counts from a base without its largest singular vectors. PEFT loads "
    "{weights} as it is; as=merged makes one model of base and adapter.",
    "per": "per={per}: {reason}",
    "rank": "rank={rank}: this LoRA is exact and keeps its own rank; leave out rank.",
}


class ExportParser(FlagParser):
    """Takes ``key=value`` for ``--key value``."""

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        keys = [name.removeprefix("--") for action in self._actions for name in action.option_strings if "--" in name]
        given = [text for text in arguments if re.match(r"[\w.-]+=", text) and not text.startswith("run=")]
        unknown = [text for text in given if text.partition("=")[0] not in keys and not Path(text).exists()]
        if unknown:
            raise UserError(*(f"{text}: unknown key; {nearest(text.partition('=')[0], keys)}" for text in unknown))
        flags = [f"--{text}" if text in given and not Path(text).exists() else text for text in arguments]
        return super().read(flags)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_flags(export, _parser(), argv)


def export(flags: argparse.Namespace) -> int:
    """The run, its config and a free directory, then the work."""
    directory = flags.run.removeprefix("run=")
    _refuse_diverged(directory)
    run = saved_run(directory)
    replaced = {**base_model(flags), "dtype": flags.dtype}
    overrides = [f"source.root={flags.source_root}"] if flags.source_root else []
    config = run.config(overrides, **{key: value for key, value in replaced.items() if value})
    output = Path(flags.output)
    mistakes = [*_not_exportable(run, config, flags), *_not_free(output)]
    if mistakes:
        raise UserError(*mistakes)
    with ending_on_ctrl_c():
        # torch, transformers and peft: only now is everything checked.
        from mosld.recipes.export import Export, export_run

    dtype = flags.dtype if flags.dtype == "bfloat16" else "float32"
    export_run(Export(run, config, flags.form, output, flags.per == "task", flags.rank, flags.rows, dtype))
    print_result(output)
    return ExitCode.FINISHED


def _refuse_diverged(directory: str) -> None:
    results = read_json(Path(directory) / "results.json")
    if results and results.get("status") == "diverged":
        raise UserError(REFUSED["diverged"].format(path=directory, error=results.get("error")))


def _not_exportable(run: SavedRun, config: Config, flags: argparse.Namespace) -> list[str]:
    method = config.method
    facts = {"name": method.name, "weights": run.weights, "path": run.path, **vars(flags)}
    if run.whole:
        return [REFUSED["full"].format(**facts)]
    if method.kind in REFUSED:
        return [REFUSED[method.kind].format(**facts)]
    reasons = []
    if config.model.quantize and flags.form in ("model", "merged"):
        reasons.append(REFUSED["quantize"].format(quantize=config.model.quantize))
    if keys := _other_keys(run, config):
        reasons.append(REFUSED["other"].format(keys=", ".join(keys), **facts))
    exact = method.kind == "lora" or method.router == "domain"
    if flags.form == "model" and method.kind == "lora":
        reasons.append(REFUSED["model"])
    if method.dora and flags.form != "model":
        reasons.append(REFUSED["dora"].format(**facts))
    elif method.init == PISSA and flags.form in ("lora", "gguf"):
        reasons.append(REFUSED["pissa"].format(**facts))
    if flags.rank and (exact or flags.form == "model"):
        reasons.append(REFUSED["rank"].format(**facts))
    if flags.per == "task" and (method.kind == "lora" or flags.form == "model"):
        reasons.append(REFUSED["per"].format(reason="there is one adapter for all tasks; leave out per.", **facts))
    if flags.per == "all" and method.router == "domain" and flags.form != "model":
        reason = "every request has the expert of its own task, so there is one LoRA for each; leave out per."
        reasons.append(REFUSED["per"].format(reason=reason, **facts))
    return reasons


def _other_keys(run: SavedRun, config: Config) -> list[str]:
    """The method's keys in which the config beside the adapter differs from the run's."""
    inner = run.weights / "config.yaml"
    if run.weights == run.path or not inner.is_file():
        return []
    saved = results_keys(rerun_config(load_yaml(inner), []))
    ours = results_keys(config)
    return [key for key in sorted(saved) if key.startswith(("method.", "model.name")) and saved[key] != ours.get(key)]


def _not_free(output: Path) -> list[str]:
    """Why nothing can be written there, if so."""
    try:
        empty = output.is_dir() and not output.is_symlink() and not any(output.iterdir())
        if os.path.lexists(output) and not empty:
            return [f"output={output}: exists and is not an empty directory; name a new one."]
        parent = next(path for path in output.resolve().parents if path.exists())
    except OSError as error:
        return [f"output={output}: {error.strerror}."]
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return [f"output={output}: nothing can be made in {parent}."]
    return []


def _parser() -> ExportParser:
    parser = ExportParser("export", USAGE)
    add_run(parser)
    parser.add_argument("--as", dest="form", choices=FORMS, required=True, help="see above")
    parser.add_argument("--per", choices=("all", "task"), help="one LoRA for all tasks (default), or one for each")
    parser.add_argument(
        "--rank",
        type=at_least(1),
        help="largest rank of a fitted LoRA; default: the method's rank where experts share A, else 16 or more",
    )
    parser.add_argument("--rows", type=at_least(1), default=1000, help="train rows to fit on; default 1000")
    parser.add_argument("--source.root", dest="source_root", metavar="DIR", help="where the run's local data lies now")
    add_written(parser)
    return parser


def add_written(parser: FlagParser) -> None:
    """Add the arguments that say where and in which type the files are written."""
    parser.add_argument("--output", metavar="DIR", required=True, help="a new directory (or an empty one)")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        help="type of the written weights; default: of a model the run's own, of a LoRA float32",
    )


if __name__ == "__main__":
    sys.exit(main())
