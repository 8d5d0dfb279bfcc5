"""Which of the named runs can be inspected, and why the others cannot. Imports no torch: mistakes show at once."""

from collections.abc import Sequence
from pathlib import Path

from mosld.common.errors import UserError
from mosld.config.rerun import rerun_config
from mosld.config.schema import Config
from mosld.runs.saved import SavedRun, saved_run

REASONS = {
    "full": "all weights were trained: there is no A, no expert and no router to inspect",
    "prefix": "it learned keys and values before the text: there is no A, no expert and no router to inspect",
    "lora": "one A and one B a layer, no experts, no router; its A can be compared with that of another run: name one "
    "of mosl, mosld or hydralora, or of lora on another task, too",
}


def select_runs(paths: Sequence[str]) -> tuple[list[tuple[SavedRun, Config]], list[str]]:
    """The runs that can be inspected with their configs, each once, and a sentence on each of the others.

    Raises:
        UserError: a path is no run, or none of the runs can be inspected.
    """
    runs: dict[Path, tuple[SavedRun, Config]] = {}
    errors: list[str] = []
    for path in paths:
        try:
            run = saved_run(path)
            runs.setdefault(run.weights.resolve(), (run, rerun_config(run.recorded, [])))
        except UserError as error:
            errors += error.messages
    if errors:
        raise UserError(*errors)
    methods = [config.method for _, config in runs.values()]
    comparable = sum(method.kind == "lora" or method.share in ("A", "both") for method in methods)
    kinds = ("mixture", "lora") if comparable > 1 else ("mixture",)
    selected, left_out = [], []
    for run, config in runs.values():
        if config.method.kind in kinds:
            selected.append((run, config))
        else:
            left_out.append(f"{run.path} ({config.method.name}): {REASONS[config.method.kind]}.")
    if not selected:
        raise UserError(*left_out)
    return selected, left_out
