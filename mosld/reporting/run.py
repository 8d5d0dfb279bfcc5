"""One run as a report sees it: what its results.json says, the settings that tell it apart, and the names of rows."""

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TypeVar

from mosld.common.errors import format_value
from mosld.config.groups import group_options, option_tree
from mosld.config.identity import unhashed_defaults
from mosld.runs.record import RunResults, TaskScore

# Settings in a table's heading, or averaged over: runs that differ only in these share a row.
HEADING_KEYS = ("model.", "source.", "prompt", "seed", "method.name", "evaluation.limit", "evaluation.base")
# Keys of the data that make a row of their own; the others choose the rows of the data, which make a table.
MIXING_KEYS = ("data.mixing", "data.weights", "data.temperature", "data.cap")
# How long a run trains, and how often it looks for its best weights.
LENGTH_KEYS = ("training.epochs", "training.max_steps", "training.validate_every")
# The order of the paper's tables, then its ablations and relatives.
METHODS = (
    "full", "prefix", "lora", "lora_matched", "molora", "loramoe", "sira", "mola", "mixlora", "moa", "hydralora",
    "rlora", "comol", "smora", "flylora", "mosl", "mosld_b", "mosld",
)  # fmt: skip
TASKS = ("obqa", "csqa", "race", "mctest", "arc_e", "arc_c", "gsm8k", "mmlu", "openorca")
# The order of settings in a row's name.
KEY_GROUPS = ("method", "allocation", "data", "training")

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Run:
    """A finished run, or an evaluation of one.

    Attributes:
        trained_on: for an evaluation the name of the data that the weights were trained on; else None.
    """

    path: Path
    results: RunResults = field(repr=False)
    trained_on: str | None = None

    @property
    def method(self) -> str:
        return self.results["method"]

    @property
    def seed(self) -> int:
        return self.results["seed"]

    @property
    def source(self) -> str:
        return self.results["data"]["source"]

    @property
    def data(self) -> str:
        """Name of the data that was scored."""
        return self.results["data"]["name"]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all rows of the data."""
        return self.results["data"]["fingerprint"]

    @property
    def prompt(self) -> str:
        return self.results.get("prompt") or ""

    @property
    def scores(self) -> Mapping[str, TaskScore]:
        return self.results["scores"]

    @property
    def config(self) -> Mapping[str, object]:
        return self.results["config"]

    @property
    def single_task(self) -> bool:
        """Whether it was trained on one task only."""
        return self.trained_on is None and len(self.results["data"].get("tasks") or self.scores) == 1

    @property
    def test_items(self) -> dict[str, int | None]:
        """Number of test items by task."""
        return {task: score.get("n") for task, score in self.scores.items()}

    @property
    def trained_weights(self) -> int | None:
        return (self.results.get("parameters") or {}).get("trainable")

    def accuracy(self, task: str) -> float:
        """Accuracy as a share of 1."""
        return float(self.scores[task]["accuracy"])

    def task_rows(self, task: str) -> tuple[str | None, int | None]:
        """Fingerprint and test items of one task: equal in two runs that trained and were scored on the same rows."""
        return self.results["data"]["fingerprints"].get(task), self.test_items[task]

    @cached_property
    def model(self) -> dict[str, object]:
        """The keys of the base model that have a value, with the dtype that was used."""
        keys = {key: value for key, value in self.config.items() if key.startswith("model.")}
        keys["model.dtype"] = self.results.get("dtype") or keys.get("model.dtype")
        keys["model.name"] = self.results["model"]
        return {key: value for key, value in sorted(keys.items()) if value is not None}

    @cached_property
    def setup(self) -> tuple[str, str, str]:
        """Source, base model and prompt: equal for all runs of one table."""
        return self.source, json.dumps(self.model), self.prompt

    @cached_property
    def settings(self) -> dict[str, object]:
        """The keys whose values tell the rows of a table apart."""
        settings = {
            key: value
            for key, value in {**unhashed_defaults(), **self.config}.items()
            if not key.startswith(HEADING_KEYS) and (key in MIXING_KEYS or not key.startswith("data."))
        }
        # One expert a task, whatever the tasks.
        if settings.get("method.domains") == self.config.get("data.tasks"):
            settings.pop("method.domains", None)
        return settings

    @cached_property
    def row_key(self) -> str:
        """Method and settings as one text: equal for runs that differ only in seed and data."""
        return json.dumps([self.method, self.settings], sort_keys=True)

    @cached_property
    def row_key_at_equal_steps(self) -> str | None:
        """`row_key` with the number of optimiser steps in place of the keys that lead to it; None if it is unknown."""
        if (steps := self.results.get("steps")) is None:
            return None
        settings = {key: value for key, value in self.settings.items() if key not in LENGTH_KEYS}
        return json.dumps([self.method, settings, steps], sort_keys=True)


def group_by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items by their key, keys in the order of their first item."""
    groups: defaultdict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def row_differences(runs: Iterable[Run]) -> dict[str, dict[str, str]]:
    """For each `Run.row_key` the settings that tell it from the method's other rows: ``{"method.rank": "rank=4"}``.

    If the rows of a method differ in one setting, each row names it; if in several, each names those in which it has
    not the most common value.
    """
    differences: dict[str, dict[str, str]] = {}
    for members in group_by(runs, lambda run: run.method).values():
        common = common_settings(members)
        for run in members:
            values = {key: run.settings.get(key) for key in common}
            if len(common) > 1:
                values = {key: value for key, value in values.items() if value != common[key]}
            differences[run.row_key] = {key: _setting_text(key, value) for key, value in values.items()}
    return differences


def common_settings(runs: Sequence[Run]) -> dict[str, object]:
    """For each setting in which these runs differ, its most common value."""
    common = {}
    for key in sorted({key for run in runs for key in run.settings}, key=_key_order):
        values = [run.settings.get(key) for run in runs]
        texts = [json.dumps(value) for value in values]
        if len(set(texts)) > 1:
            common[key] = values[texts.index(max(sorted(set(texts)), key=texts.count))]
    return common


def common_settings_note(method: str, runs: Sequence[Run]) -> str | None:
    """A sentence about the settings that the names of a method's rows leave out; None if they leave out nothing."""
    common = common_settings(runs)
    texts = " ".join(_setting_text(key, value) for key, value in common.items())
    return f"{method}: {texts}, unless its name says otherwise." if len(common) > 1 else None


def row_order(run: Run) -> tuple[int, str, list[tuple[int, float, str]]]:
    """Sort key of a row: the paper's order of methods, an author's variant behind its method, then the settings."""
    method = run.method.removesuffix("_authors")
    position = METHODS.index(method) if method in METHODS else len(METHODS)
    return position, run.method, [_value_order(run.settings[key]) for key in sorted(run.settings, key=_key_order)]


def sort_tasks(tasks: Iterable[str]) -> list[str]:
    """The tasks in the paper's order, others behind."""
    return sorted(set(tasks), key=lambda task: (TASKS.index(task) if task in TASKS else len(TASKS), task))


def heading(run: Run) -> str:
    """What all runs of a table have in common: base model, source, prompt."""
    shown = [run.model.get(f"model.{key}") for key in ("dtype", "quantize", "path")]
    model = " ".join(
        [run.results["model"], *(str(value) for value in shown if value not in (None, "", "none", "auto"))]
    )
    return ", ".join([model, f"{run.source} data", *([f"prompt {run.prompt}"] if run.prompt else [])])


def allocation_name(experts: object) -> str:
    """An allocation as MoLA writes it, with its name if it has one: ``8642 (triangle)``."""
    if not isinstance(experts, list):
        return format_value(experts)
    digits = (
        "".join(map(str, experts)) if all(isinstance(n, int) and n < 10 for n in experts) else format_value(experts)
    )
    name = _allocation_names().get(tuple(experts))
    return f"{digits} ({name})" if name else digits


@cache
def _allocation_names() -> dict[tuple[int, ...], str]:
    trees = {name: option_tree("allocation", name, []).get("experts") for name in group_options()["allocation"]}
    return {tuple(experts): name for name, experts in trees.items() if isinstance(experts, list)}


def _setting_text(key: str, value: object) -> str:
    text = allocation_name(value) if key == "allocation.experts" else format_value(value)
    return f"{key.rpartition('.')[2]}={text}"


def _key_order(key: str) -> tuple[int, str]:
    group = key.split(".")[0]
    return (KEY_GROUPS.index(group) if group in KEY_GROUPS else len(KEY_GROUPS), key)


def _value_order(value: object) -> tuple[int, float, str]:
    """Numbers by size, then everything else as text."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, json.dumps(value, sort_keys=True)
