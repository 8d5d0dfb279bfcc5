"""The benchmarks of data and scores at a tiny size: counts, zero-shot scores, agreement that goes on where it stood."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def call(monkeypatch):
    """Run a benchmark as its command does; returns its exit code."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(name: str, *options: object) -> int:
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        try:
            runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    return run


def rows(path: Path) -> list[dict]:
    return json.loads(path.read_text())["rows"]


def test_rows_are_counted_by_set_split_and_source(call, toy_root, tmp_path):
    assert call("data_counts", "--root", toy_root, "--json", tmp_path / "counts.json") == 0
    found = {(row["set"], row["source"]): row for row in rows(tmp_path / "counts.json")}
    assert found["ARC-Easy", "local"] == {
        "set": "ARC-Easy", "source": "local", "train": "40", "validation": "20", "test": "20",
        "test items in train": "0",
    }  # fmt: skip
    assert found["MMLU", "bundled"]["train"] == ""
    assert ("MMLU", "local") not in found


def test_lines_that_were_scored_are_kept(call, toy_root, tmp_path):
    command = ["--root", toy_root, "--model", "tiny", "--limit", 5, "--json", tmp_path / "zero_shot.json"]
    assert call("zero_shot", *command, "--tasks", "arc_e", "--prompts", "cloze") == 0
    [first] = rows(tmp_path / "zero_shot.json")
    assert (first["task"], first["prompt"], first["items"]) == ("arc_e", "cloze", "5 of 20")
    kept = json.loads((tmp_path / "zero_shot.json").read_text())
    kept["rows"][0]["accuracy, %"] = "kept"
    (tmp_path / "zero_shot.json").write_text(json.dumps(kept))
    assert call("zero_shot", *command, "--tasks", "arc_e,obqa", "--prompts", "cloze") == 0
    assert [row["task"] for row in rows(tmp_path / "zero_shot.json")] == ["arc_e", "obqa"]
    assert rows(tmp_path / "zero_shot.json")[0]["accuracy, %"] == "kept"


@pytest.mark.parametrize("task", ["arc_easy", "gsm8k"])
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
