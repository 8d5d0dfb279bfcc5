"""The identity of a run: a hash of every key that can affect its results, and the directory named after it."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from mosld.config.schema import Config


def identity(config: Config) -> str:
    """Eight hex digits over every key that can affect results: equal configs, equal names."""
    tree = _relevant(config)
    if config.method.kind == "lora":
        tree.pop("allocation")  # has one expert whatever the allocation says
    if config.source.root:
        tree["source"]["root"] = str(Path(config.source.root).resolve())
    text = json.dumps(tree, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_directory(config: Config) -> Path:
    """`output_dir`, or ``outputs/<data>/<model>/<method>-r<rank>-s<seed>-<hash>`` below the working directory."""
    if config.output_dir:
        return Path(config.output_dir)
    method = config.method
    name = f"{method.name}-r{method.rank}-s{config.seed}-{identity(config)}"
    return Path("outputs") / config.data.name / config.model.name / name


def _relevant(node: Any) -> dict[str, Any]:
    tree = {}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            tree[field.name] = _relevant(value)
        elif field.metadata.get("affects_results", True):
            tree[field.name] = value
    return tree
