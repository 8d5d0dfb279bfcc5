"""One run as the report sees it: what its results.json says, and the settings that a table can tell it apart by."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mosld.common.errors import format_value
from mosld.config.groups import group_options, option_tree

# PART: One run as the report sees it: what its results.json says, and the settings that a table can tell it apart
# by.


# What a table's heading says, or what is averaged over: no difference in these makes a row of its own.
IN_HEADINGS = ("model.", "source.", "prompt", "seed", "method.name", "evaluation.limit", "evaluation.base")
MIXING = ("data.mixing", "data.weights", "data.temperature", "data.cap")  # other keys of the data choose the rows
QUIET = ("logger", "hub", "output_dir", "check", "experiment", "debug", "scale", "sweep", "launcher")
GROUPS = ("method", "data", "model", "source")  # chosen options that stand in results.json by name


@dataclass(frozen=True)
class Run:
    """A finished run, or an evaluation of one.

    Attributes:
        path: its directory.
        results: the object of its results.json.
        trained_on: name of the data that the weights were trained on, where this is an evaluation; else None.
    """

    path: Path
    results: Mapping[str, Any] = field(repr=False)
    trained_on: str | None = None

    @property
    def name(self) -> str:
        """The run's name; it ends in a hash of every key that affects results."""
        return str(self.results.get("name") or self.path.name)

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.results["method"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.results["seed"])

    @property
    def source(self) -> str:
        """Where the rows come from."""
        return str(self.results["data"]["source"])

    @property
    def data(self) -> str:
        """Name of the data that was scored."""
        return str(self.results["data"]["name"])

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all rows."""
        return str(self.results["data"]["fingerprint"])

    @property
    def prompt(self) -> str:
        """Prompt format, where it is known."""
        return str(self.results.get("prompt") or "")

    @property
    def scores(self) -> Mapping[str, Mapping[str, Any]]:
        """Accuracy, its standard error and the number of items, by task."""
        return self.results["scores"]

    @property
    def single(self) -> bool:
        """Whether it was trained on one task alone."""
        return self.trained_on is None and len(self.results["data"].get("tasks") or self.scores) == 1

    def accuracy(self, task: str) -> float:
        """Accuracy as a share of 1."""
        return float(self.scores[task]["accuracy"])

    def task_rows(self, task: str) -> tuple[Any, ...]:
        """What tells the rows of one task: equal in two runs where they trained and were scored on the same ones."""
        data, items = self.results["data"], self.scores[task].get("n")
        own = (data.get("fingerprints") or {}).get(task)
        counts = (data.get("counts") or {}).get(task) or {}
        return (own, items) if own else (*sorted(counts.items()), items)

    @cached_property
    def model(self) -> tuple[tuple[str, str], ...]:
        """The base model, down to the type of its weights: runs of one table agree in all of it."""
        known = {key: value for key, value in self.config.items() if key.startswith("model.")}
        known["model.dtype"] = self.results.get("dtype") or known.get("model.dtype")
        known["model.name"] = self.results["model"]
        return tuple(sorted((key, json.dumps(value)) for key, value in known.items() if value is not None))

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Every key that affects results, dotted; of a results.json without them, the overrides that were typed."""
        recorded = self.results.get("config")
        return recorded if isinstance(recorded, dict) else _overrides(self.results.get("overrides") or [])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The keys that make a row of its own where they differ, seeds, data and model aside."""
        kept = {
            key: value
            for key, value in self.config.items()
            if not key.startswith(IN_HEADINGS) and (key in MIXING or not key.startswith("data."))
        }
        if kept.get("method.domains") == self.config.get("data.tasks"):
            kept.pop("method.domains", None)  # one expert a task, whatever the tasks
        if "config" not in self.results and self.results.get("allocation") is not None:
            kept["allocation.experts"] = self.results["allocation"]
        return kept

    @cached_property
    def row(self) -> str:
        """Method and settings as one text: equal for runs that differ in seed and data alone."""
        return json.dumps([self.method, self.settings], sort_keys=True)


def _overrides(texts: list[str]) -> dict[str, Any]:
    """The keys that a command line set, as text; options of groups and what leaves results alone are not among them."""
    split = (text.lstrip("+~").partition("=") for text in texts)
    return {
        key: value
        for key, _, value in split
        if key not in GROUPS and key != "allocation" and not key.split(".")[0].startswith(QUIET)
    }


# PART: What rows and headings are called: a method, and what it differs in from the other rows of that method.


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
        return format_value(experts)
    digits = (
        "".join(map(str, experts)) if all(isinstance(n, int) and n < 10 for n in experts) else format_value(experts)
    )
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
    return f"{key.rpartition('.')[2]}={format_value(value)}"


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
