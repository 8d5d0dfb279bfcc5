"""Files that are either whole or not there: written aside, synced, renamed."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from mosld.config.ranks import is_main


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a file with this text; a reader sees the old file or the new one, never half of it.

    Of several processes the main one alone writes.
    """
    if not is_main():
        return
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def write_json(path: Path, tree: Any) -> None:
    """As `write_text`, of a JSON document."""
    write_text(path, json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON document holds; None where it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """As `write_text`, of one JSON object a line."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left; safetensors says it in words alone."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(f"os error {number}" in str(error) for number in full)
