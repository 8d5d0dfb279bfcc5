"""The identity of a run: a hash of every key that can affect its results, and the directory named after it."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mosld.common.files import JsonObject
from mosld.config.schema import Config, MethodConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def results_keys(config: Config) -> JsonObject:
    """Every key that can affect results, dotted, with its value; without `unhashed_defaults`."""
    defaults = unhashed_defaults()
    keys = all_results_keys(config).items()
    return {key: value for key, value in keys if key not in defaults or value != defaults[key]}


def all_results_keys(config: Config) -> JsonObject:
    """Every key that can affect results, dotted, with its value."""
    keys = {key: value for key, value, _ in _dotted_keys(config)}
    if not uses_allocation(config.method):
        keys = {key: value for key, value in keys.items() if not key.startswith("allocation.")}
    return keys


@cache
def unhashed_defaults() -> JsonObject:
    """The keys that older runs do not have, dotted, with the default that says what those runs did."""
    return {key: value for key, value, hash_default in _dotted_keys(Config()) if not hash_default}


def uses_allocation(method: MethodConfig) -> bool:
    """Whether the allocation sets the number of experts: not if the method fixes it, or has none."""
    return bool(method.match) or (method.kind == "mixture" and method.router != "domain" and method.experts is None)


def identity(config: Config) -> str:
    """Eight hex digits over every key that can affect results: equal configs, equal names."""
    return hashlib.sha256(json.dumps(results_keys(config), sort_keys=True).encode()).hexdigest()[:8]


def run_directory(config: Config) -> Path:
    """`output_dir`, or ``outputs/<data>/<model>/<method>-r<rank>-s<seed>-<hash>`` below the working directory."""
    if config.output_dir:
        return Path(config.output_dir)
    method = config.method
    size = {"full": "", "prefix": f"-n{method.virtual_tokens}"}.get(method.kind, f"-r{method.rank}")
    name = f"{method.name}{size}-s{config.seed}-{identity(config)}"
    return Path("outputs") / config.data.name / config.model.name / name


def _dotted_keys(group: "DataclassInstance", prefix: str = "") -> Iterator[tuple[str, object, bool]]:
    """Key, value and `hash_default` of every field that can affect results."""
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _dotted_keys(value, f"{prefix}{field.name}.")
        elif field.metadata.get("affects_results", True):
            yield f"{prefix}{field.name}", value, field.metadata.get("hash_default", True)
