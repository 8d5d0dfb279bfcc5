"""The plan's memory against the kernel's record of a real step: within 15 %, a small random model, fresh processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "vocab_size": 4000}
CASES = ["--model", "tiny", "--shapes", "8x128", "model.dtype=bfloat16"]
FIGURES = {
    "method", "recomputing", "rows x tokens", "predicted, MiB", "measured, MiB", "predicted / measured",
}  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux: /proc/self/clear_refs")
def test_predicted_peak_is_within_15_percent_of_a_real_step(tmp_path):
    shape = [f"model.shape.{name}={size}" for name, size in SHAPE.items()]
    command = [sys.executable, "benchmarks/memory_model.py", *CASES, *shape, "--methods", "mosld,full"]
    done = subprocess.run([*command, "--json", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads((tmp_path / "out").read_text())
    assert written["machine"]["threads"] >= 1
    rows = written["rows"]
    assert [(row["method"], row["recomputing"]) for row in rows] == [
        ("mosld", "no"), ("mosld", "yes"), ("full", "no"), ("full", "yes"),
    ]  # fmt: skip
    for row in rows:
        assert set(row) == FIGURES
        assert row["measured, MiB"] > 20
        assert row["predicted / measured"] == pytest.approx(1, abs=0.15), row
