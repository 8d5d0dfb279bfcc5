"""Row 6: every kind of bad data row is named as file:line: reason, all at once, and nothing is made."""

import importlib.util
import json
from functools import partial
from pathlib import Path

from cases import Case, Outcome, toy_data

TABLE = Path(__file__).resolve().parents[1] / "data" / "test_jsonl.py"  # the kinds, with the words that name each


def cases(full: bool) -> list[Case]:
    """Every kind in one file."""
    return [Case("every kind of bad row in one file", partial(_all_at_once))]


def _all_at_once(folder: Path) -> Outcome:
    from mosld.config import DataConfig, SourceConfig, UserError
    from mosld.data import load_dataset

    spec = importlib.util.spec_from_file_location("kinds_of_bad_rows", TABLE)
    assert spec
    assert spec.loader
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    path = toy_data(folder / "data") / "obqa" / "train.jsonl"
    good = json.dumps({"id": "good", "question": "What?", "choices": ["x", "y"], "answer": 0}).encode()
    path.write_bytes(b"\n".join([content.split(b"\n")[0] for content, _ in table.BAD.values()] + [good]))
    outcome = Outcome(len(table.BAD))
    try:
        load_dataset(DataConfig(tasks=["obqa"]), SourceConfig(name="local", root=str(folder / "data")))
    except UserError as error:
        for line, (kind, (_, reason)) in enumerate(table.BAD.items(), start=1):
            if not any(said.startswith(f"{path}:{line}: ") and reason in said for said in error.messages):
                outcome.failures.append(f"{kind}, line {line}")
    else:
        outcome.failures.append("nothing was refused")
    return outcome
