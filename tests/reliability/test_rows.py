"""The table of promises in its short form, a test a case; `python benchmarks/reliability.py` runs the full form."""

import importlib
from pathlib import Path

import pytest

ROWS = sorted(path.stem for path in Path(__file__).parent.glob("row*.py"))
CASES = [(row, case) for row in ROWS for case in importlib.import_module(f"tests.reliability.{row}").cases(full=False)]


@pytest.mark.parametrize(("row", "case"), CASES, ids=[f"{row}: {case.name}" for row, case in CASES])
def test_promise(row, case, tmp_path):
    outcome = case.check(tmp_path)
    assert outcome is None or outcome.failures == []
