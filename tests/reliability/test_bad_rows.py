"""Row 6: every kind of bad data row is named as file:line: reason, all at once, and nothing is made."""

import importlib.util
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cases import Case, Outcome, check_case, toy_data

TABLES = Path(__file__).resolve().parents[1] / "unit" / "data"  # the kinds, with the words that name each
# The command itself; whether it came as far as loading what a model needs.
TRAIN = "import sys; from mosld.train import main; code = main(sys.argv[1:]); print('torch' in sys.modules); exit(code)"


def cases(full: bool) -> list[Case]:
    """Every kind in one file of the project's form, and in the user's own csv and parquet files."""
    return [
        Case("every kind of bad row in one file", _all_at_once),
        *(Case(f"every kind of bad row in {form} files", partial(_own_files, form)) for form in ("csv", "parquet")),
        Case("the command stops before a model loads", _before_a_model_loads),
    ]


def _table(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"kinds_{name}", TABLES / f"{name}.py")
    assert spec
    assert spec.loader
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    return table


def _all_at_once(folder: Path) -> Outcome:
    from mosld.common.errors import UserError
    from mosld.config.schema import DataConfig, SourceConfig
    from mosld.data.dataset import load_dataset

    table = _table("test_jsonl")
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


def _own_files(form: str, folder: Path) -> Outcome:
    said, wanted = _table("test_bad_own_rows").refusal(folder, form)
    missing = [
        f"{place}{reason}"
        for place, reason in wanted
        if not any(message.startswith(place) and reason in message for message in said)
    ]
    return Outcome(len(wanted), missing or ([] if len(said) == len(wanted) + 1 else ["a good row was named"]))


def _before_a_model_loads(folder: Path) -> None:
    table = _table("test_bad_own_rows")
    (folder / "data").mkdir()
    wanted = table.write_csv(folder / "data")["law"]
    columns = ", ".join(f"{ours}: {theirs}" for ours, theirs in table.MAPS["law"].items())
    command = [
        "data=local", "source=local", f"source.root={folder / 'data' / 'law.csv'}", f"data.columns={{{columns}}}",
        "model=tiny", "debug=fast", "logger=files", f"output_dir={folder / 'run'}",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", TRAIN, *command], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stdout == "False\n"
    lines = done.stderr.splitlines()
    assert all(any(place in line and reason in line for line in lines) for place, reason in wanted), done.stderr
    assert not (folder / "run").exists()


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
