"""Read the committed fact tables (facts/*.yaml)."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "facts"


@cache
def load(name: str) -> Any:
    """The content of facts/<name>.yaml. Callers share one copy: they must not change it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), Loader=loader)
