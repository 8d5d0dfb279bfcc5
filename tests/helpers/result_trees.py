"""Finished runs without training: results.json and predictions/ as a run writes them, built from given outcomes."""

import json
from pathlib import Path
from typing import Any

from mosld.reporting.blocks import Block, make_blocks
from mosld.reporting.collect import CollectedRuns
from mosld.reporting.run import Run, RunResults

SIX = ("obqa", "csqa", "race", "mctest", "arc_e", "arc_c")

Answers = dict[str, list[bool]]
"""By task, whether each item was answered correctly."""


def answers(pattern: str) -> list[bool]:
    """``"1101"`` is correct, correct, wrong, correct."""
    return [character == "1" for character in pattern]


TWO = {"obqa": answers("10"), "csqa": answers("11")}


def results(
    by_task: Answers,
    method: str = "mosld",
    data: str = "mixture",
    seed: int = 0,
    rows: str = "a",
    source: str = "bundled",
    config: dict[str, object] | None = None,
    **changed: object,
) -> Any:
    """The object of a results.json; `rows` stands for the rows of every task, in fingerprints."""
    scores = {
        task: {"accuracy": sum(items) / len(items), "stderr": 0.0, "n": len(items)} for task, items in by_task.items()
    }
    settings = {"seed": seed, "method.name": method, "method.rank": 8, "method.dropout": 0.1, "data.name": data}
    tree = {
        "schema_version": 1,
        "name": f"{method}-s{seed}",
        "status": "finished",
        "method": method,
        "model": "toy",
        "prompt": "letter",
        "data": {
            "name": data,
            "source": source,
            "tasks": list(by_task),
            "fingerprint": f"{'-'.join(by_task)}-{rows}",
            "fingerprints": {task: f"{task}-{rows}" for task in by_task},
        },
        "seed": seed,
        "overrides": [],
        "config": {**settings, **(config or {})},
        "dtype": "float32",
        "scores": scores,
        "parameters": {"trainable": 1000, "total": 100_000},
        "seconds": 120.0,
        "train_seconds": 60.0,
        "tokens_per_second": 500.0,
        "peak_memory_bytes": 2_000_000_000,
    }
    return {**tree, **changed}


def write_run(path: Path, by_task: Answers, **keys: Any) -> Path:
    """Write a run directory; the keywords are those of `results`."""
    (path / "predictions").mkdir(parents=True)
    (path / "results.json").write_text(json.dumps(results(by_task, **keys)))
    for task, items in by_task.items():
        lines = [json.dumps({"id": f"{task}/{i}", "prediction": 0, "correct": item}) for i, item in enumerate(items)]
        (path / "predictions" / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
    return path


def run(by_task: Answers = TWO, name: str = "", trained_on: str | None = None, **keys: Any) -> Run:
    """A run without files; the keywords are those of `results`."""
    tree: RunResults = results(by_task, **keys)
    return Run(Path(name or f"{tree['data']}-{tree['config']}-{tree['model']}"), tree, trained_on)


def single(task: str, **keys: Any) -> Run:
    """A run on one task only."""
    return run({task: answers("10")}, data=f"single_{task}", name=f"{task}{keys}", **keys)


def blocks(*runs: Run) -> list[Block]:
    """The blocks that these runs make."""
    return make_blocks(CollectedRuns(list(runs)))
