"""What rows and headings are called: a method, and what it differs in from the other rows of that method."""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from mosld.config import group_options
from mosld.config.errors import typed
from mosld.config.parts import option_tree
from mosld.reporting.run import Run

# The order of the paper's tables, then its ablations and relatives.
METHODS = (
    "full", "prefix", "lora", "molora", "sira", "mola", "mixlora", "moa", "hydralora", "mosl", "mosld_b", "mosld",
)  # fmt: skip
TASKS = ("obqa", "csqa", "race", "mctest", "arc_e", "arc_c", "gsm8k", "mmlu", "openorca")


def row_differences(runs: Iterable[Run]) -> dict[str, dict[str, str]]:
    """By `Run.row`: what sets it apart from the other rows of its method, as in ``{"method.rank": "rank=4"}``.

    Where rows differ in one setting alone, all tell it; where in several, each tells what is not usual.
    """
    by_method: dict[str, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    found: dict[str, dict[str, str]] = {}
    for members in by_method.values():
        usual = usual_settings(members)
        for run in {run.row: run for run in members}.values():
            values = {key: run.settings.get(key) for key in usual}
            told = values if len(usual) == 1 else {key: value for key, value in values.items() if value != usual[key]}
            found[run.row] = {key: _told(key, value) for key, value in told.items()}
    return found


def usual_settings(runs: Sequence[Run]) -> dict[str, Any]:
    """Of the settings in which these runs differ: the value that most of them have."""
    keys = sorted({key for run in runs for key in run.settings}, key=_weight)
    values = {key: [run.settings.get(key) for run in runs] for key in keys}
    usual = {}
    for key, given in values.items():
        texts = [json.dumps(value) for value in given]
        if len(set(texts)) > 1:
            usual[key] = given[texts.index(max(sorted(set(texts)), key=texts.count))]
    return usual


def usual_note(method: str, runs: Sequence[Run]) -> str | None:
    """What a method's rows have where their name says nothing else; None where the names say all."""
    usual = usual_settings(runs)
    told = " ".join(_told(key, value) for key, value in usual.items())
    return f"{method}: {told}, unless its name says otherwise." if len(usual) > 1 else None


def row_order(run: Run) -> tuple[Any, ...]:
    """Where a row stands: as in the paper, authors' variants after the method, then by what differs."""
    base = run.method.removesuffix("_authors")
    place = METHODS.index(base) if base in METHODS else len(METHODS)
    values = [_comparable(run.settings[key]) for key in sorted(run.settings, key=_weight)]
    return place, run.method, values


def in_order(tasks: Iterable[str]) -> list[str]:
    """Tasks as the paper lists them, others behind."""
    return sorted(set(tasks), key=lambda task: (TASKS.index(task) if task in TASKS else len(TASKS), task))


def heading(run: Run) -> str:
    """What holds for a whole table: base model, source, prompt."""
    model = {key.removeprefix("model."): json.loads(value) for key, value in run.model}
    shown = [model["name"], *(str(model[key]) for key in ("dtype", "quantize", "path") if model.get(key) not in _NONE)]
    prompt = [f"prompt {run.prompt}"] if run.prompt else []
    return ", ".join([" ".join(shown), f"{run.source} data", *prompt])


def shape_name(experts: Any) -> str:
    """An allocation as MoLA writes it, and its name where it has one: ``8642 (triangle)``."""
    if not isinstance(experts, list):
        return typed(experts)
    digits = "".join(map(str, experts)) if all(isinstance(n, int) and n < 10 for n in experts) else typed(experts)
    name = _shapes().get(tuple(experts))
    return f"{digits} ({name})" if name else digits


_NONE = (None, "", "none", "auto")


@cache
def _shapes() -> dict[tuple[int, ...], str]:
    trees = {name: option_tree("allocation", name, []).get("experts") for name in group_options()["allocation"]}
    return {tuple(experts): name for name, experts in trees.items() if isinstance(experts, list)}


def _told(key: str, value: Any) -> str:
    if key == "allocation.experts":
        return f"experts={shape_name(value)}" if value is not None else "experts=null"
    return f"{key.rpartition('.')[2]}={typed(value)}"


def _weight(key: str) -> tuple[int, str]:
    """The method's own keys first."""
    groups = ("method", "allocation", "data", "training")
    group = key.split(".")[0]
    return (groups.index(group) if group in groups else len(groups), key)


def _comparable(value: Any) -> tuple[int, float, str]:
    """Numbers by size (also where overrides gave them as text), then the rest as text."""
    try:
        return (0, float(value), "")
    except (TypeError, ValueError):
        return (1, 0.0, json.dumps(value, sort_keys=True))
