"""Find every run below some directories, and say why the others cannot be used."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from mosld.common.errors import UserError
from mosld.common.files import JsonObject, read_json, walk
from mosld.common.reading import load_json, require_shape
from mosld.common.seal import seal_of
from mosld.common.terminal import one_line
from mosld.reporting.run import Run
from mosld.runs.record import RunResults
from mosld.runs.results import SCHEMA_VERSION

T = TypeVar("T")
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
        for folder, below, files in walk(directory):
            if "results.json" in files or {"config.yaml", "data.json"} <= set(files):
                below[:] = [name for name in below if name == "eval"]
                real = os.path.realpath(folder)
                if real not in seen:
                    yield folder
                seen.add(real)


def _add_run(collected: CollectedRuns, path: Path) -> None:
    file = path / "results.json"
    results: JsonObject = {}
    seal = seal_of(path)
    if not file.exists():
        problem: str | None = "unfinished: there is no results.json, so it is still running or was killed"
    elif fault := seal.problem() or seal.fault(file):
        problem = f"damaged: {fault}"
    else:
        try:
            results = _in_lines(load_json(file, dict[str, object]))
            problem = _problem(results)
            if problem is None:
                require_shape(results, RunResults, file)
        except UserError as error:
            problem = f"damaged: {str(error).removeprefix(f'{file}: ').removeprefix('is damaged: ')}"
    if problem:
        collected.left_out.append((path, problem))
        return
    if faults := seal.faults("metrics.jsonl"):
        collected.left_out.append((path / "metrics.jsonl", f"damaged: {faults[0]}; its losses are not drawn"))
    collected.runs.append(Run(path, cast("RunResults", results), _trained_on(path, collected.runs)))


def _in_lines(value: T) -> T:
    """A JSON value with every text in one line that steers no terminal: names of tasks, settings, notes, errors."""
    if isinstance(value, dict):
        return cast("T", {one_line(key): _in_lines(entry) for key, entry in value.items()})
    if isinstance(value, list):
        return cast("T", [_in_lines(entry) for entry in value])
    return cast("T", one_line(value)) if isinstance(value, str) else value


def _problem(results: JsonObject) -> str | None:
    """Why no table can use this results.json; None if one can, so far as it is whole."""
    version = results.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        return f"its results.json has schema version {version}; this report reads {SCHEMA_VERSION}"
    status = results.get("status")
    if status != "finished":
        reason = str(results.get("error") or f"its results.json says {status}").split(r"\n")[0]
        return f"{'unfinished' if status == 'interrupted' else status}: {reason}"
    if results.get("scores") == {} and results.get("best_by"):
        loss = results.get("validation_loss")
        said = f" (validation loss {loss:.3f})" if isinstance(loss, int | float) else ""
        return f"it scored nothing: its tasks are for training only{said}"
    data = results.get("data")
    keys = {**results, **({f"data.{key}": value for key, value in data.items()} if isinstance(data, dict) else {})}
    missing = [key for key in REQUIRED_KEYS if keys.get(key) in (None, "", {})]
    return f"damaged: results.json has no {', '.join(missing)}" if missing else None


def _trained_on(path: Path, runs: Sequence[Run]) -> str | None:
    """The data that an evaluation (RUN/eval/<data>-<hash>-<prompt>) was trained on; None for a run."""
    if path.parent.name != "eval":
        return None
    run = next((run for run in reversed(runs) if run.path == path.parents[1]), None)
    if run:
        return run.data
    data = (read_json(path.parents[1] / "results.json") or {}).get("data")
    # An evaluation of a bare adapter directory has none.
    return one_line(str(data["name"])) if isinstance(data, dict) and "name" in data else "unknown data"
