"""Every benchmark at a tiny size: it runs, and its JSON file has the figures of docs/explanation/performance.md.

memory_model.py is tried by tests/test_memory_model.py.
"""

import json
import runpy
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CASES = {
    "step_time": ["--model", "tiny", "--methods", "lora,mosld", "--batch-size", "2", "--rounds", "1"],
    "growth": ["--model", "tiny", "--experts", "2,4", "--ranks", "2,4", "--lengths", "8,16", "--tokens", "16"],
    "memory": ["--model", "tiny", "--width", "64", "--tokens", "64", "--methods", "lora"],
    "end_to_end": ["--model", "tiny", "--tasks", "arc_e", "--trainer-sizes", "2", "--batch-size", "2"],
    "where_time_goes": ["--model", "tiny", "--batch-size", "1"],
    "before_after": ["--model", "tiny"],
    "saving": ["--model", "tiny", "--wide", "tiny", "--rank", "4"],
    "crossover": ["--widths", "16", "--tokens", "8", "--choices", "2"],
    "shared_cores": ["--model", "tiny", "--ways", "mosld", "--steps", "4", "--options", "data.limit=40"],
    "startup": ["--model", "tiny", "--runs", "3", "--options", "data=single_arc_e", "data.limit=20"],
}
FIGURES = {
    "step_time": {"method", "seconds", "tokens/s", "share of peak", "beside", "ratio", "least", "most"},
    "growth": {"what", "method", "size", "seconds", "growth", "to lora"},
    "memory": {"what", "method", "bytes", "to lora"},
    "end_to_end": {"what", "rows/s", "to Trainer's best", "share of peak"},
    "where_time_goes": {"part", "share"},
    "before_after": {"way", "seconds", "ratio", "least", "most", "memory", "bytes"},
    "saving": {"model", "method", "parameters", "seconds", "bytes beyond 4 a parameter"},
    "crossover": {"width", "experts", "rank", "k", "columns", "dense, ms", "sparse to dense"},
    "shared_cores": {"spinning", "one, tokens/s", "ratio", "together, tokens/s", "ratio together"},
    "startup": {"what", "seconds", "over the bare import"},
}


@pytest.mark.parametrize("name", CASES)
def test_it_runs_and_writes_its_figures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script, out = ROOT / "benchmarks" / f"{name}.py", tmp_path / "new" / "figures.json"
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), *CASES[name], "--rounds", "1", "--json", str(out)])
    runpy.run_path(str(script), run_name="__main__")
    found = json.loads(out.read_text())
    assert found["machine"]["threads"] >= 1
    for row in found["rows"]:
        assert set(row) == FIGURES[name]
        assert all(isinstance(value, str) or value == value for value in row.values())


def test_every_benchmark_is_tried():
    helpers = {"side_by_side", "wide_layers"}
    own = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - helpers
    assert set(CASES) <= own
    assert set(CASES) == set(FIGURES)
