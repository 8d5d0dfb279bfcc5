"""The stages of `mosld.inspect`: choose what can be looked at, compute, draw, write."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markdown import Markdown

from mosld.analysis.adapter_files import AdapterRun
from mosld.analysis.analyze import compares_A, numbers
from mosld.analysis.figures import draw
from mosld.analysis.table import markdown
from mosld.common.errors import ExitCode, UserError
from mosld.common.files import write_json, write_text
from mosld.common.process import silence_libraries
from mosld.config.schema import Config
from mosld.runs.console import Console
from mosld.runs.saved import SavedRun

NUMBERS, TABLE = "inspect.json", "inspect.md"


def inspect(
    found: Sequence[tuple[SavedRun, Config]], notes: Sequence[str], out: str | None, evaluation: str | None
) -> int:
    """Write numbers, table and figures; returns the exit code.

    Args:
        found: the runs, each with its config.
        notes: what was left out, and why.
        out: the directory to write; None: inspect/ in the first run.
        evaluation: the evaluation whose routing.json is read; None: that of the run itself.

    Raises:
        UserError: files are damaged, or the directory cannot be written.
    """
    console, runs = Console(), [AdapterRun(*pair) for pair in found]
    if compares_A(runs):  # that needs transformers and peft, which take seconds
        silence_libraries()
    output = Path(out) if out else runs[0].directory / "inspect"
    tree = numbers(dict(zip(_names(runs), runs, strict=True)), evaluation)
    notes = [*notes, *_missing(tree["subspaces"], runs), *_unrouted(runs, evaluation), *_too_few(tree["runs"])]
    for note in notes:
        console.say(f"note: {note}")
    try:
        output.mkdir(parents=True, exist_ok=True)
        _clear(output)
        write_json(output / NUMBERS, {**tree, "notes": notes, "figures": draw(tree, output)})
        text = markdown(tree, notes)
        write_text(output / TABLE, text)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}; choose another --out.") from error
    console.show(Markdown(text[: text.find("## By layer")]))
    print(output)
    return ExitCode.FINISHED


def _names(runs: Sequence[AdapterRun]) -> list[str]:
    """The shortest of method, method and data, method, data and seed, directory, path that tells all runs apart."""
    for parts in range(1, 4):
        named = [
            " ".join((run.config.method.name, run.config.data.name, f"s{run.config.seed}")[:parts]) for run in runs
        ]
        if len(set(named)) == len(named):
            return named
    folders = [run.directory.resolve().name for run in runs]
    return folders if len(set(folders)) == len(folders) else [str(run.directory) for run in runs]


def _missing(pairs: Sequence[object], runs: Sequence[AdapterRun]) -> list[str]:
    """Why no A is compared with another, where one could be."""
    if pairs or not any(run.one_A for run in runs):
        return []
    return ["name runs of method=lora on single tasks beside it, on the same base model, to see whose A the A is like."]


def _unrouted(runs: Sequence[AdapterRun], evaluation: str | None) -> list[str]:
    return [
        f"{run.directory}: no routing.json, so nothing is said of expert use; python -m mosld.eval run={run.directory} "
        "makes one, and --evaluation NAME reads it."
        for run in runs
        if run.mixture and run.routing(evaluation) is None
    ]


def _too_few(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Why a run has experts or tasks, but nothing to compare."""
    for run in runs:
        if run["use"] and max(len(module["norm"]) for module in run["modules"].values()) == 1:
            yield f"{run['path']}: one expert a layer, so there is no other to compare it with, and no choice."
        elif len(run["use"]) == 1:
            yield f"{run['path']}: one task, so nothing is said of task similarity and specialisation."


def _clear(output: Path) -> None:
    """Remove the figures of an earlier inspection: fewer may be drawn now."""
    try:
        for name in json.loads((output / NUMBERS).read_text())["figures"]:
            if Path(name).name == name and Path(name).suffix in (".png", ".svg"):
                (output / name).unlink(missing_ok=True)
    except (OSError, ValueError, KeyError, TypeError):
        pass
