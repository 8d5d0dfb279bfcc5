"""The first stage: every run below some directories, and those that cannot be used, with the reason."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mosld.common.errors import UserError
from mosld.reporting.run import Run
from mosld.runs.results import SCHEMA_VERSION


@dataclass
class Found:
    """What lies below the directories.

    Attributes:
        runs: finished runs and evaluations, in the order of their paths.
        left_out: directories of runs that no table can use, with the reason.
    """

    runs: list[Run] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)

    def listed(self, faults: Mapping[Path, str]) -> list[tuple[str, str]]:
        """Where and why, in words: directories left out, and files of predictions that no test over items can use."""
        files = [(str(path), f"left out of tests over items: {why}") for path, why in sorted(faults.items())]
        return [*((str(path), why) for path, why in self.left_out), *files]


def collect(places: Sequence[str]) -> Found:
    """Find runs at any depth; each results.json is read once, and nothing else.

    Raises:
        UserError: a directory is missing, or there is no run below any.
    """
    missing = [f"{place}: no such directory." for place in places if not Path(place).is_dir()]
    if missing:
        raise UserError(*missing)
    found = Found()
    for path in _directories(places):
        _sort_in(found, path)
    if not found.runs:
        reasons = [f"{path}: {why}." for path, why in found.left_out]
        raise UserError(f"no finished run below {', '.join(places)}; mosld.train makes one.", *reasons)
    return found


def _directories(places: Iterable[str]) -> Iterator[Path]:
    """Every directory of a run or an evaluation, once, however many of the places hold it."""
    seen = set[str]()
    for place in places:
        for folder, below, files in os.walk(place):
            if "results.json" in files or {"config.yaml", "data.json"} <= set(files):
                below[:] = [name for name in below if name == "eval"]
                real = os.path.realpath(folder)
                if real not in seen:
                    yield Path(folder)
                seen.add(real)
            below[:] = sorted(name for name in below if not name.startswith("."))


def _sort_in(found: Found, path: Path) -> None:
    """Put one directory among the runs, or among those left out."""
    try:
        results = json.loads((path / "results.json").read_bytes())
    except FileNotFoundError:
        found.left_out.append((path, "unfinished: there is no results.json, so it still runs or was killed"))
        return
    except (OSError, ValueError) as error:
        found.left_out.append((path, f"damaged: results.json cannot be read ({error})"))
        return
    why = _unusable(results)
    if why:
        found.left_out.append((path, why))
    else:
        found.runs.append(Run(path, results, _trained_on(path, found.runs)))


def _unusable(results: Any) -> str | None:
    """Why no table can use a results.json, if so."""
    if not isinstance(results, dict):
        return "damaged: results.json holds no object"
    version = results.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        return f"its results.json has schema version {version}; this report reads {SCHEMA_VERSION}"
    status = results.get("status")
    if status != "finished":
        error = results.get("error")
        return f"{'unfinished' if status == 'interrupted' else status}: " + (
            str(error).splitlines()[0] if error else f"its results.json says {status}"
        )
    data = results.get("data")
    told = {**results, **({f"data.{key}": value for key, value in data.items()} if isinstance(data, dict) else {})}
    wanted = ("method", "model", "seed", "scores", "data.name", "data.source", "data.fingerprint")
    lacking = [key for key in wanted if told.get(key) in (None, "", {})]
    if lacking:
        return f"damaged: results.json has no {', '.join(lacking)}"
    if not isinstance(results["seed"], int):
        return "damaged: the seed in results.json is no whole number"
    return None if _are_scores(results["scores"]) else "damaged: a score in results.json is no share between 0 and 1"


def _are_scores(scores: Any) -> bool:
    entries = scores.values() if isinstance(scores, dict) else [None]
    accuracies = [entry.get("accuracy") if isinstance(entry, dict) else None for entry in entries]
    return all(isinstance(value, int | float) and 0 <= value <= 1 for value in accuracies)


def _trained_on(path: Path, before: Sequence[Run]) -> str | None:
    """Of an evaluation (RUN/eval/<data>-<prompt>): the data of the run it belongs to; None for a run."""
    if path.parent.name != "eval":
        return None
    own = next((run for run in reversed(before) if run.path == path.parents[1]), None)
    if own:
        return own.data
    try:
        return str(json.loads((path.parents[1] / "results.json").read_bytes())["data"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown data"  # of a bare adapter directory
