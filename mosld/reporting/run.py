"""One run as the report sees it: what its results.json says, and the settings that a table can tell it apart by."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

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
