"""The identity of a run: a hash of every key that can affect its results, and the directory named after it."""

import hashlib
import json
from functools import cache
from pathlib import Path

from mosld.common.files import JsonObject
from mosld.config.fields import dotted_fields
from mosld.config.schema import Config, MethodConfig
from mosld.config.unread import key_value


def results_keys(config: Config) -> JsonObject:
    """Every key that can affect results, dotted, with its value; without `unhashed_defaults`."""
    defaults = unhashed_defaults()
    keys = all_results_keys(config).items()
    return {key: value for key, value in keys if key not in defaults or value != defaults[key]}


def all_results_keys(config: Config) -> JsonObject:
    """Every key that can affect results, dotted, with its value."""
    unused = () if uses_allocation(config.method) else ("allocation.",)
    return {
        key: key_value(config, key)
        for key, field, _ in dotted_fields(Config)
        if field.metadata["affects_results"] and not key.startswith(unused)
    }


@cache
def unhashed_defaults() -> JsonObject:
    """The keys that older runs do not have, dotted, with the default that says what those runs did."""
    fields = dotted_fields(Config)
    return {key: key_value(Config(), key) for key, field, _ in fields if not field.metadata["hash_default"]}


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
