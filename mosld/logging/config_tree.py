"""The plain tree of a recorded config."""

from pathlib import Path
from typing import Any

import yaml

from mosld.config import UserError


def read_config_tree(path: Path) -> dict[str, Any]:
    """The plain tree of a config.yaml.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: is no config")
    return tree


def lookup(tree: dict[str, Any], key: str) -> Any:
    """The value of a dotted key; None where it is not there."""
    node: Any = tree
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node
