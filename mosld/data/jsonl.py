"""Reading JSON-lines files with our own checks: nothing bad is swallowed, all of it is named as file:line: reason."""

import codecs
import json
from pathlib import Path
from typing import Any

from mosld.data.parsing import parse_row
from mosld.data.rows import AnyRow


def read_rows(path: Path, task: str, bad: list[str]) -> list[AnyRow]:
    """The good rows of a file; ``file:line: reason`` for each bad one is appended to `bad`."""
    rows: list[AnyRow] = []
    first_line: dict[str, int] = {}
    for number, raw in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = parse_row(task, _record(raw))
            if row.id in first_line:
                raise ValueError(f"id '{row.id}' stands already in line {first_line[row.id]}")
        except UnicodeDecodeError as error:
            bad.append(f"{path}:{number}: is not UTF-8 (byte {error.start})")
        except ValueError as error:
            bad.append(f"{path}:{number}: {error}")
        else:
            first_line[row.id] = number
            rows.append(row)
    return rows


def _record(raw: bytes) -> Any:
    text = raw.decode("utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error.msg}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError("is no JSON (a number too long, or nested too deep)") from error
