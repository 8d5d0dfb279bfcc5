"""The work of `mosld.inspect`: compute all numbers, draw the figures, write the table."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.markdown import Markdown

from mosld.analysis.adapter_files import AdapterRun
from mosld.analysis.analyze import Inspection, analyze, compares_a
from mosld.analysis.figures import draw_figures
from mosld.analysis.table import markdown
from mosld.common.errors import UserError
from mosld.common.files import JsonObject, write_json, write_text
from mosld.common.process import silence_libraries
from mosld.common.reading import load_json, require_shape
from mosld.config.schema import Config
from mosld.runs.console import Console
from mosld.runs.saved import SavedRun

NUMBERS_FILE, TABLE_FILE = "inspect.json", "inspect.md"


def inspect_runs(
    selected: Sequence[tuple[SavedRun, Config]], left_out: Sequence[str], out: str | None, evaluation: str | None
) -> Path:
    """Write numbers, table and figures, and print the table of means.

    Args:
        left_out: a sentence on each run that cannot be inspected.
        out: the directory to write; None: inspect/ in the first run.
        evaluation: the evaluation whose routing.json is read; None: that of the run itself.

    Returns:
        The directory with the files.

    Raises:
        UserError: files are damaged, or the directory cannot be written.
    """
    console = Console()
    for saved, config in selected:
        if saved.best:
            # Only now are torch and the base model needed.
            from mosld.recipes.remake import remake_adapter

            remake_adapter(config.model, saved, console)
    runs = [AdapterRun(saved, config) for saved, config in selected]
    # Comparing A needs transformers and peft.
    if compares_a(runs):
        silence_libraries()
    output = Path(out) if out else replace(runs[0].saved, path=runs[0].directory).output("inspect")
    tree = analyze(dict(zip(_short_names(runs), runs, strict=True)), evaluation)
    notes = [*left_out, *_notes(runs, tree)]
    for note in notes:
        console.say(f"note: {note}")
    try:
        output.mkdir(parents=True, exist_ok=True)
        _remove_figures(output)
        write_json(output / NUMBERS_FILE, {**tree, "notes": notes, "figures": draw_figures(tree, output)})
        write_text(output / TABLE_FILE, markdown(tree, notes))
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}; choose another --out.") from error
    # The notes stand above it already.
    text = markdown(tree)
    console.show(Markdown(text[: text.find("## By layer")]))
    return output


def _short_names(runs: Sequence[AdapterRun]) -> list[str]:
    """The first of method, method and data, method, data and seed, directory, path that tells all runs apart."""
    parts = [(run.config.method.name, run.config.data.name, f"s{run.config.seed}") for run in runs]
    candidates = [[" ".join(words[:count]) for words in parts] for count in (1, 2, 3)]
    candidates.append([run.directory.resolve().name for run in runs])
    paths = [str(run.directory) for run in runs]
    return next((names for names in candidates if len(set(names)) == len(runs)), paths)


def _notes(runs: Sequence[AdapterRun], tree: Inspection) -> list[str]:
    """Why some of the numbers are missing."""
    notes = []
    if not tree["subspaces"] and any(run.has_single_a for run in runs):
        notes.append("to compare A with that of LoRAs, also name runs of method=lora on single tasks, same base model.")
    notes += [
        f"{run.directory}: no routing.json, so there are no numbers on expert use; python -m mosld.eval "
        f"run={run.directory} makes one, and --evaluation NAME reads it."
        for run, numbers in zip(runs, tree["runs"], strict=True)
        if run.is_mixture and not numbers["use"]
    ]
    for numbers in tree["runs"]:
        if numbers["use"] and max(len(module["norm"]) for module in numbers["modules"].values()) == 1:
            notes.append(f"{numbers['path']}: one expert a layer, so there is nothing to compare and no choice.")
        elif len(numbers["use"]) == 1:
            notes.append(f"{numbers['path']}: one task, so there is no divergence of tasks and no specialisation.")
    return notes


def _remove_figures(output: Path) -> None:
    """Remove the figures of an earlier inspection, which may have drawn more."""
    with suppress(OSError, UserError):
        names = load_json(output / NUMBERS_FILE, JsonObject).get("figures")
        for name in require_shape(names, list[str], output / NUMBERS_FILE):
            if Path(name).name == name and Path(name).suffix in (".png", ".svg"):
                (output / name).unlink(missing_ok=True)
