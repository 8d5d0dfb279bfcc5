"""Runs on disk without training: results.json and predictions/ as a run writes them, out of what is given."""

import json
from pathlib import Path
from typing import Any

from mosld.reporting.blocks import Block, make_blocks
from mosld.reporting.collect import Found
from mosld.reporting.run import Run

SIX = ("obqa", "csqa", "race", "mctest", "arc_e", "arc_c")


def right(pattern: str) -> list[bool]:
    """Outcomes by item: ``"1101"`` is right, right, wrong, right."""
    return [character == "1" for character in pattern]


def results(
    outcomes: dict[str, list[bool]],
    method: str = "mosld",
    data: str = "mixture",
    seed: int = 0,
    rows: str = "a",
    config: dict[str, Any] | None = None,
    **changed: Any,
) -> dict[str, Any]:
    """The object of a results.json; `rows` stands for the rows of every task, in fingerprints."""
    scores = {
        task: {"accuracy": sum(items) / len(items), "stderr": 0.0, "n": len(items)} for task, items in outcomes.items()
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
            "source": "bundled",
            "tasks": list(outcomes),
            "fingerprint": f"{'-'.join(outcomes)}-{rows}",
            "fingerprints": {task: f"{task}-{rows}" for task in outcomes},
        },
        "allocation": [8, 6, 4, 2],
        "seed": seed,
        "overrides": [],
        "config": {**settings, **(config or {})},
        "dtype": "float32",
        "scores": scores,
        "average": sum(score["accuracy"] for score in scores.values()) / len(scores),
        "parameters": {"trainable": 1000, "total": 100_000},
        "seconds": 120.0,
        "train_seconds": 60.0,
        "tokens_per_second": 500.0,
        "peak_memory_bytes": 2_000_000_000,
    }
    return {**tree, **changed}


def write_run(path: Path, outcomes: dict[str, list[bool]], **given: Any) -> Path:
    """Write a run directory; the keywords are those of `results`."""
    (path / "predictions").mkdir(parents=True)
    (path / "results.json").write_text(json.dumps(results(outcomes, **given)))
    for task, items in outcomes.items():
        lines = [json.dumps({"id": f"{task}/{i}", "prediction": 0, "correct": item}) for i, item in enumerate(items)]
        (path / "predictions" / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
    return path


TWO = {"obqa": right("10"), "csqa": right("11")}


def run(outcomes: dict[str, list[bool]] = TWO, name: str = "", trained_on: str | None = None, **given: Any) -> Run:
    """A run without files; the keywords are those of `results`."""
    tree = results(outcomes, **given)
    return Run(Path(name or f"{tree['data']}-{tree['config']}-{tree['model']}"), tree, trained_on)


def blocks(*runs: Run) -> list[Block]:
    """The blocks that these runs make."""
    return make_blocks(Found(list(runs)))


def single(task: str, **given: Any) -> Run:
    """A run on one task alone."""
    return run({task: right("10")}, data=f"single_{task}", name=f"{task}{given}", **given)
