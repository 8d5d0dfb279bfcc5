"""results.json: one object with everything a table needs, written last and atomically by every ended run."""

import json
import math
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mosld.common.files import write_json, write_text
from mosld.common.process import is_main
from mosld.config.identity import identity, results_keys
from mosld.config.method_checks import experts_of
from mosld.config.schema import Config
from mosld.distributed.launch import launch
from mosld.runs.directory import RunDirectory, run_name

# PART: results.json: one object with everything a table needs, written last and atomically by every ended run.


SCHEMA_VERSION = 1
PACKAGES = ("mosld", "torch", "transformers", "peft", "accelerate", "datasets", "hydra-core", "safetensors")


class Results:
    """Collects a run's results; `write` puts them into results.json with how the run ended."""

    def __init__(self, run: RunDirectory, config: Config, overrides: list[str], data: dict[str, Any]) -> None:
        """Note what is known at the start."""
        self.run, self._start, shared = run, time.perf_counter(), launch()
        self.tree: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "name": run_name(config, run.path),
            "status": "failed",
            "method": config.method.name,
            "model": config.model.name,
            "prompt": config.prompt,
            "shots": config.evaluation.shots,
            "data": {"name": config.data.name, **data},
            "allocation": _experts(config),
            "seed": config.seed,
            "overrides": overrides,
            "processes": {"count": shared.count, "engine": shared.engine},
            "config": results_keys(config),
            "config_hash": identity(config),
            "git_hash": git_hash(),
            "versions": versions(),
        }

    def add(self, **values: Any) -> "Results":
        """Add or replace keys."""
        self.tree.update(values)
        return self

    def write(self, status: str) -> dict[str, Any]:
        """Write results.json with this status: finished, failed, diverged or interrupted."""
        self.tree.update(
            status=status,
            seconds=round(time.perf_counter() - self._start, 3),
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024),
        )
        write_json(self.run.results, self.tree)
        return self.tree


def _experts(config: Config) -> int | list[int] | None:
    """Experts per layer; None where the method has one pair of projections, or none."""
    if config.method.kind != "mixture":
        return None
    domains = config.method.domains
    return len(domains) if domains else experts_of(config.method, config.allocation)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_hash() -> str | None:
    """The commit of the checkout that this code runs from, marked where files differ from it; None in a wheel."""
    checkout = Path(__file__).resolve().parent.parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # no git here
        return None


# PART: metrics.jsonl: one JSON object per logged step.


class MetricsLog:
    """Appends measurements; on resume it drops the lines of steps that will be taken again."""

    def __init__(self, path: Path, resume_step: int) -> None:
        """Keep the lines up to optimiser step `resume_step`; of several processes the main one alone writes."""
        self._file = None
        if is_main():
            kept = [line for line in _lines(path) if _step(line) <= resume_step]
            write_text(path, "".join(kept))
            self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "MetricsLog":
        """The log itself; it is closed in the end."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def write(self, **values: Any) -> None:
        """Append one line at once; a number that is not finite becomes null, which JSON can say."""
        if self._file is None:
            return
        self._file.write(json.dumps(_finite(values), allow_nan=False) + "\n")
        self._file.flush()


def _finite(value: Any) -> Any:
    """Numbers that are not finite become None, in lists and maps too: after a NaN the experts' load is made of them."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; one that a crash cut short is left out."""
    if not path.is_file():
        return []
    content = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in content.splitlines(keepends=True) if line.endswith("\n")]


def _step(line: str) -> float:
    """The step that a line is of; none is as late as that of a damaged line, which is thus dropped."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
