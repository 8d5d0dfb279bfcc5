"""Every benchmark at a tiny size: it runs, and its JSON file has the figures of the docs.

gpu_correctness.py and tables.py are tried by test_gpu_report.py.
"""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    "kernel_cache": ["--model", "tiny", "--method", "mosld", "--kernels", "1024,8", "--steps", "10"],
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
    "kernel_cache": {"kernels", "tokens a second, early", "late", "late, ratio", "memory, GiB", "memory, ratio"},
    "startup": {"what", "seconds", "over the bare import"},
}


MEMORY_MODEL = {"method", "recomputing", "rows x tokens", "predicted, MiB", "measured, MiB", "predicted / measured"}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch):
    """Run a benchmark as its command does; returns its exit code."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def run(name: str, *options: object) -> int:
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        try:
            runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    return run


def rows(path: Path) -> list[dict]:
    written = json.loads(path.read_text())
    assert written["machine"]["threads"] >= 1
    return written["rows"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_runs_and_writes_its_figures(name: str, call, tmp_path: Path):
    out = tmp_path / "new" / "figures.json"
    assert call(name, *CASES[name], "--rounds", "1", "--json", out) == 0
    for row in rows(out):
        assert set(row) == FIGURES[name]
        assert all(isinstance(value, str) or value == value for value in row.values())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux: /proc/self/clear_refs")
def test_memory_that_the_plan_predicts_is_within_15_percent_of_a_real_step(tmp_path: Path):
    """The kernel's record of a small random model, each method in a fresh process."""
    shape = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "vocab_size": 4000}
    keys = ["model.dtype=bfloat16", *(f"model.shape.{name}={size}" for name, size in shape.items())]
    options = ["--model", "tiny", "--shapes", "8x128", "--methods", "mosld,full", "--json", tmp_path / "out"]
    command = [sys.executable, "benchmarks/memory_model.py", *keys, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    measured = rows(tmp_path / "out")
    assert [(row["method"], row["recomputing"]) for row in measured] == [
        ("mosld", "no"), ("mosld", "yes"), ("full", "no"), ("full", "yes"),
    ]  # fmt: skip
    for row in measured:
        assert set(row) == MEMORY_MODEL
        assert row["measured, MiB"] > 20
        assert row["predicted / measured"] == pytest.approx(1, abs=0.15), row


def test_rows_are_counted_by_set_split_and_source(call, toy_root, tmp_path):
    assert call("data_counts", "--root", toy_root, "--json", tmp_path / "counts.json") == 0
    found = {(row["set"], row["source"]): row for row in rows(tmp_path / "counts.json")}
    assert found["ARC-Easy", "local"] == {
        "set": "ARC-Easy", "source": "local", "train": "40", "validation": "20", "test": "20",
        "test items in train": "0",
    }  # fmt: skip
    assert found["MMLU", "bundled"]["train"] == ""
    assert ("MMLU", "local") not in found


@pytest.mark.slow
def test_lines_that_were_scored_are_kept(call, toy_root, tmp_path):
    out = tmp_path / "zero_shot.json"
    command = ["--root", toy_root, "--model", "tiny", "--limit", 5, "--json", out]
    assert call("zero_shot", *command, "--tasks", "arc_e", "--prompts", "cloze") == 0
    [first] = rows(out)
    assert (first["task"], first["prompt"], first["items"]) == ("arc_e", "cloze", "5 of 20")
    kept = json.loads(out.read_text())
    kept["rows"][0]["accuracy, %"] = "kept"
    out.write_text(json.dumps(kept))
    assert call("zero_shot", *command, "--tasks", "arc_e,obqa", "--prompts", "cloze") == 0
    assert [(row["task"], row["accuracy, %"] == "kept") for row in rows(out)] == [("arc_e", True), ("obqa", False)]


@pytest.mark.parametrize("task", ["arc_easy", "gsm8k"])
@pytest.mark.slow
def test_agreement_goes_on_where_it_was_stopped(task, call, mixed_root, tmp_path):
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")
    root, state = tmp_path / "rows", tmp_path / "state.jsonl"
    shutil.copytree(mixed_root, root)
    command = ["--root", root, "--model", "tiny", "--tasks", task, "--state", state, "--json", tmp_path / "json"]
    assert call("agreement", *command, "--limit", 4) == 0
    before = state.read_text().splitlines()
    assert len(before) == 4
    assert call("agreement", *command) == 0
    after = state.read_text().splitlines()
    assert after[:4] == before
    assert len({json.loads(line)["id"] for line in after}) == len(after) == 20
    [row] = rows(tmp_path / "json")
    assert (row["items"], row["agreeing"]) == ("20", 20)
    spoilt = json.loads(after[0])
    state.write_text("\n".join([json.dumps({**spoilt, "agrees": False}), *after[1:]]) + "\n")
    assert call("agreement", *command) == 1
