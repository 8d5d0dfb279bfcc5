"""metrics.jsonl: one JSON object per logged step."""

import json
import math
from pathlib import Path
from typing import Any

from mosld.config.ranks import is_main
from mosld.logging.atomic import write_text


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
