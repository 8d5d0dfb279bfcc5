"""results.json, written last and atomically by every ended run, and metrics.jsonl, one line per logged step."""

import json
import math
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from mosld.common.files import JsonObject, write_text
from mosld.common.process import is_main
from mosld.config.identity import identity, results_keys
from mosld.config.method_checks import experts_of
from mosld.config.schema import AllocationConfig, Config, MethodConfig
from mosld.distributed.launch import launch
from mosld.runs.directory import RunDirectory, run_name
from mosld.runs.record import metrics_line

SCHEMA_VERSION = 1
PACKAGES = ("mosld", "torch", "transformers", "peft", "accelerate", "datasets", "hydra-core", "safetensors")
BYTES_PER_MAXRSS = 1 if sys.platform == "darwin" else 1024


class Results:
    """Collects the results of a run; `write` puts them into results.json.

    Attributes:
        run: the run's directory.
        tree: the content of results.json so far.
    """

    def __init__(self, run: RunDirectory, config: Config, overrides: list[str], data: JsonObject) -> None:
        self.run = run
        self._start = time.perf_counter()
        processes = launch()
        self.tree: JsonObject = {
            "schema_version": SCHEMA_VERSION,
            "name": run_name(config, run.path),
            "status": "failed",
            "method": config.method.name,
            "model": config.model.name,
            "prompt": config.prompt,
            "shots": config.evaluation.shots,
            "data": {"name": config.data.name, **data},
            "allocation": _experts_per_layer(config.method, config.allocation),
            "seed": config.seed,
            "overrides": overrides,
            "processes": {"count": processes.count, "engine": processes.engine},
            "config": results_keys(config),
            "config_hash": identity(config),
            "git_hash": git_hash(),
            "versions": _versions(),
        }

    def add(self, **values: object) -> None:
        """Add or replace keys."""
        self.tree.update(values)

    def write(self, status: str) -> JsonObject:
        """Write results.json with this status (finished, failed, diverged or interrupted) and return its content."""
        self.tree.update(
            status=status,
            seconds=round(time.perf_counter() - self._start, 3),
            peak_memory_bytes=_peak_memory_bytes(),
        )
        if self.run.metrics.is_file():
            self.run.seal.accept(self.run.metrics)
        # JSON has no infinity, which a perplexity can be.
        self.run.seal.write_json(self.run.results, _finite(self.tree))
        return self.tree


def _peak_memory_bytes() -> int:
    try:
        import resource
    except ModuleNotFoundError:
        # Windows counts it itself.
        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_MAXRSS


def _experts_per_layer(method: MethodConfig, allocation: AllocationConfig) -> int | list[int] | None:
    """The number of experts in each layer; None if the method has no experts."""
    if method.kind != "mixture":
        return None
    return len(method.domains) if method.domains else experts_of(method, allocation)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def git_hash() -> str | None:
    """The commit of the checkout that this code runs from, marked "-dirty" if files differ; None in a wheel."""
    checkout = Path(__file__).resolve().parent.parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        # git is not installed.
        return None


class MetricsLog:
    """metrics.jsonl, opened to append; on resume damaged lines and those of steps that will be repeated are dropped.

    Only the main process writes.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        """Keep the lines up to optimiser step `resume_step`."""
        self._file = None
        if is_main():
            content = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
            # A crash may have cut the last line short.
            lines = [line for line in content.splitlines(keepends=True) if line.endswith("\n")]
            lines = [line for line in lines if (values := metrics_line(line)) and values["step"] <= resume_step]
            write_text(path, "".join(lines))
            self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            self._file.close()

    def write(self, **values: object) -> None:
        """Append one line; a number that is not finite becomes null, as JSON has no NaN."""
        if self._file:
            self._file.write(json.dumps(_finite(values), allow_nan=False) + "\n")
            self._file.flush()


def _finite(value: object) -> object:
    """Replace numbers that are not finite by None, also within lists and maps."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
