"""Find every run below some directories, and say why the others cannot be used."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mosld.common.errors import UserError
from mosld.reporting.run import Run
from mosld.runs.results import SCHEMA_VERSION

REQUIRED_KEYS = (
    "method", "model", "seed", "scores", "config", "data.name", "data.source", "data.fingerprint", "data.fingerprints",
)  # fmt: skip


@dataclass
class CollectedRuns:
    """The runs below some directories.

    Attributes:
        runs: finished runs and evaluations, in the order of their paths.
        left_out: directories of runs that no table can use, with the reason.
    """

    runs: list[Run] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)


def collect(directories: Sequence[str]) -> CollectedRuns:
    """Find runs at any depth; each results.json is read once, and no other file.

    Raises:
        UserError: a directory is missing, or there is no finished run below any of them.
    """
    missing = [f"{directory}: no such directory." for directory in directories if not Path(directory).is_dir()]
    if missing:
        raise UserError(*missing)
    collected = CollectedRuns()
    for path in _run_directories(directories):
        _add_run(collected, path)
    if not collected.runs:
        reasons = [f"{path}: {why}." for path, why in collected.left_out]
        raise UserError(f"no finished run below {', '.join(directories)}; mosld.train makes one.", *reasons)
    return collected


def _run_directories(directories: Iterable[str]) -> Iterator[Path]:
    """Every directory of a run or an evaluation once, even if it lies below several of the directories."""
    seen = set()
    for directory in directories:
        for folder, below, files in os.walk(directory):
            if "results.json" in files or {"config.yaml", "data.json"} <= set(files):
                below[:] = [name for name in below if name == "eval"]
                real = os.path.realpath(folder)
                if real not in seen:
                    yield Path(folder)
                seen.add(real)
            below[:] = sorted(name for name in below if not name.startswith("."))


def _add_run(collected: CollectedRuns, path: Path) -> None:
    try:
        results = json.loads((path / "results.json").read_bytes())
        problem = _problem(results)
    except FileNotFoundError:
        problem = "unfinished: there is no results.json, so it is still running or was killed"
    except (OSError, ValueError) as error:
        problem = f"damaged: results.json cannot be read ({error})"
    if problem:
        collected.left_out.append((path, problem))
    else:
        collected.runs.append(Run(path, results, _trained_on(path, collected.runs)))


def _problem(results: object) -> str | None:
    """Why no table can use this results.json; None if one can."""
    if not isinstance(results, dict):
        return "damaged: results.json is not an object"
    version = results.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        return f"its results.json has schema version {version}; this report reads {SCHEMA_VERSION}"
    status = results.get("status")
    if status != "finished":
        error = results.get("error")
        reason = str(error).splitlines()[0] if error else f"its results.json says {status}"
        return f"{'unfinished' if status == 'interrupted' else status}: {reason}"
    data = results.get("data")
    keys = {**results, **({f"data.{key}": value for key, value in data.items()} if isinstance(data, dict) else {})}
    if results.get("scores") == {} and results.get("best_by"):
        loss = results.get("validation_loss")
        return "it scored nothing: its tasks are for training only" + (f" (validation loss {loss:.3f})" if loss else "")
    missing = [key for key in REQUIRED_KEYS if keys.get(key) in (None, "", {})]
    if missing:
        return f"damaged: results.json has no {', '.join(missing)}"
    if not isinstance(results["seed"], int):
        return "damaged: the seed in results.json is not an integer"
    return None if _are_scores(results["scores"]) else "damaged: a score in results.json is not between 0 and 1"


def _are_scores(scores: object) -> bool:
    entries = scores.values() if isinstance(scores, dict) else [None]
    accuracies = [entry.get("accuracy") if isinstance(entry, dict) else None for entry in entries]
    return all(isinstance(value, int | float) and 0 <= value <= 1 for value in accuracies)


def _trained_on(path: Path, runs: Sequence[Run]) -> str | None:
    """The data that an evaluation (RUN/eval/<data>-<hash>-<prompt>) was trained on; None for a run."""
    if path.parent.name != "eval":
        return None
    run = next((run for run in reversed(runs) if run.path == path.parents[1]), None)
    if run:
        return run.data
    try:
        return str(json.loads((path.parents[1] / "results.json").read_bytes())["data"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        # An evaluation of a bare adapter directory.
        return "unknown data"
