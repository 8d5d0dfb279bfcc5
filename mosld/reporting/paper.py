"""The paper's numbers beside ours, where the model is the same; its errata are marked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mosld.reporting.blocks import Block, Row
from mosld.reporting.significance import mean_and_spread
from mosld.reporting.table import NOTHING, Cell, Table

OTHER_ROWS = (
    "The paper's scores are of the published sets; ours of {} data: only those on published sets can be compared."
)


def paper_numbers() -> Mapping[str, Any]:
    """What paper.yaml holds: `parameters`, `scores` and `errata`, each by model."""
    return yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8"))


def paper_table(block: Block, numbers: Mapping[str, Any]) -> Table | None:
    """Ours, the paper's and the difference; None where the paper says nothing of this model."""
    model = str(block.run.results["model"])
    errata = numbers["errata"].get(model, [])
    rows = [line for row in block.rows for line in [*_weights(row, model, numbers), *_scores(row, block, numbers)]]
    if not rows:
        return None
    notes = [*block.facts, *([OTHER_ROWS.format(block.run.source)] if block.run.source != "hub" else [])]
    notes += [f"† {text}" for text in errata]
    return Table(f"beside the paper, {block.title}", ["method", "what", "ours", "paper", "ours - paper"], rows, notes)


def _weights(row: Row, model: str, numbers: Mapping[str, Any]) -> list[list[Cell]]:
    ours = row.run.results.get("parameters", {}).get("trainable")
    entries = numbers["parameters"].get(model, [])
    found = next((entry for entry in entries if row.run.method in entry["methods"]), None)
    if found is None or ours is None:
        return []
    paper = Cell(f"{found['weights']:,} (printed {found['printed']} †)", found["weights"])
    own = Cell(f"{ours:,}", ours, runs=row.all_runs)
    return [[Cell(row.name), Cell("trained weights"), own, paper, _minus(ours, found["weights"], "{:+,}")]]


def _scores(row: Row, block: Block, numbers: Mapping[str, Any]) -> list[list[Cell]]:
    by_data = numbers["scores"].get(str(block.run.results["model"]), {})
    lines = []
    for task in block.tasks:
        data = f"single_{task}" if block.single else block.run.data
        paper = by_data.get(data, {}).get(row.run.method, {}).get(task)
        accuracies = row.accuracies(task)
        if paper is not None and block.run.source != "bundled" and block.run.trained_on is None:
            mean = 100 * mean_and_spread(list(accuracies.values()))[0] if accuracies else None
            runs = list(row.runs.get(task, {}).values())
            own = NOTHING if mean is None else Cell(f"{mean:.2f}", mean, seeds=len(accuracies), runs=runs)
            lines.append([Cell(row.name), Cell(task), own, Cell(f"{paper:.2f}", paper), _minus(mean, paper, "{:+.2f}")])
    return lines


def _minus(ours: float | None, paper: float, form: str) -> Cell:
    return NOTHING if ours is None else Cell(form.format(ours - paper), ours - paper)
