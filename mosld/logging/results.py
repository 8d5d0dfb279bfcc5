"""results.json: one object with everything a table needs, written last and atomically by every ended run."""

import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mosld.config import Config, identity
from mosld.config.identity import results_keys
from mosld.config.launch import launch
from mosld.config.method_rules import experts_of
from mosld.logging.atomic import write_json
from mosld.logging.run_directory import RunDirectory, run_name

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
