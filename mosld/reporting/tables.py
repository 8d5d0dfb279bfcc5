"""The tables of a block: scores, mixture minus single, cost. Pure functions of results.json."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mosld.reporting.blocks import Block, Row
from mosld.reporting.run import Run
from mosld.reporting.significance import mean_and_spread
from mosld.reporting.table import NOTHING, Cell, Table, mark_best

# PART: The tables of a block: scores, mixture minus single, cost. Pure functions of results.json.


AVERAGE = "average"
SEEDS_NOTE = "Accuracy in %, mean ± standard deviation over seeds (one seed: no ±); best in bold; - no run."


def scores_table(block: Block, marks: Mapping[tuple[str, str], str]) -> Table:
    """Accuracy by method and task.

    Args:
        block: the runs.
        marks: what stands behind the number of a (row name, task), as where a difference is significant.
    """
    columns = [*block.tasks, *([AVERAGE] if len(block.tasks) > 1 else [])]
    rows = [_untrained(block, columns)] if _base_run(block) else []
    rows += [_scores(row, block.tasks, columns, marks) for row in block.rows]
    for column in range(1, len(columns) + 1):
        mark_best(rows, column)
    return Table(block.title, ["method", *columns, "seeds", "trained weights"], rows, [*block.facts, SEEDS_NOTE])


def _scores(row: Row, tasks: Sequence[str], columns: Sequence[str], marks: Mapping[tuple[str, str], str]) -> list[Cell]:
    cells = [Cell(row.name)]
    for column in columns:
        by_seed = row.averages(tasks) if column == AVERAGE else row.accuracies(column)
        runs = row.all_runs if column == AVERAGE else list(row.runs.get(column, {}).values())
        cells.append(_accuracy(by_seed, runs, marks.get((row.name, column), "")))
    return [*cells, _seeds(row, tasks), _trained(row.all_runs)]


def _accuracy(by_seed: Mapping[int, float], runs: Sequence[Run], mark: str = "") -> Cell:
    if not by_seed:
        return NOTHING
    mean, spread = mean_and_spread([100 * value for value in by_seed.values()])
    text = f"{mean:.1f}" + (f" ± {spread:.1f}" if spread is not None else "") + mark
    return Cell(text, mean, spread, len(by_seed), runs=runs)


def _seeds(row: Row, tasks: Iterable[str]) -> Cell:
    counts = sorted({len(row.runs[task]) for task in tasks if row.runs.get(task)})
    return Cell(f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}", counts[0])


def _trained(runs: Sequence[Run]) -> Cell:
    counts = [run.results.get("parameters", {}).get("trainable") for run in runs]
    known = sorted({count for count in counts if count is not None})
    if not known:
        return NOTHING
    return Cell(f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}", known[0], runs=runs)


def _base_run(block: Block) -> Run | None:
    return next((run for row in block.rows for run in row.all_runs if run.results.get("base_scores")), None)


def _untrained(block: Block, columns: Sequence[str]) -> list[Cell]:
    """The row of the untrained model: no seed, since nothing was drawn."""
    found: dict[str, tuple[float, Run]] = {}
    for row in block.rows:
        for run in row.all_runs:
            for task, score in (run.results.get("base_scores") or {}).items():
                found.setdefault(task, (100 * score["accuracy"], run))
    if all(task in found for task in block.tasks):
        values = [found[task][0] for task in block.tasks]
        found[AVERAGE] = (sum(values) / len(values), found[block.tasks[0]][1])
    cells = [Cell(f"{found[c][0]:.1f}", found[c][0], runs=[found[c][1]]) if c in found else NOTHING for c in columns]
    return [Cell("(untrained)"), *cells, NOTHING, Cell("0", 0)]


def gains_table(mixture: Block, singles: Sequence[Block], marks: Mapping[tuple[str, str], str]) -> Table | None:
    """Accuracy after training on the mixture minus that after training on the task alone (the paper's figure 1).

    None where no method has both on the same rows.
    """
    rows = []
    for row in mixture.rows:
        cells, found = [Cell(row.name)], dict[str, float]()
        for task in mixture.tasks:
            alone = single_row(mixture, singles, row, task)
            cells.append(_gain(row, alone, task, marks) if alone else NOTHING)
            if cells[-1].value is not None:
                found[task] = cells[-1].value
        if found:
            whole = len(found) == len(mixture.tasks)
            mean = sum(found.values()) / len(found)
            cells.append(Cell(f"{mean:+.1f}", mean, runs=row.all_runs) if whole else NOTHING)
            rows.append(cells)
    if not rows:
        return None
    notes = [
        *mixture.facts,
        "Mean over seeds of the run on the mixture minus that of the run on the task alone, in points; the same rows "
        "of the task in both; - no such pair.",
    ]
    return Table(f"mixture minus single, {mixture.title}", ["method", *mixture.tasks, AVERAGE], rows, notes)


def single_row(mixture: Block, singles: Sequence[Block], row: Row, task: str) -> Row | None:
    """The runs of the same method and settings on this task alone, on the same rows."""
    for block in singles:
        if block.comparable(mixture, task):
            alone = block.row_like(row)
            if alone and alone.runs.get(task):
                return alone
    return None


def _gain(row: Row, alone: Row, task: str, marks: Mapping[tuple[str, str], str]) -> Cell:
    together, single = row.accuracies(task), alone.accuracies(task)
    if not together:
        return NOTHING
    gain = 100 * (mean_and_spread(list(together.values()))[0] - mean_and_spread(list(single.values()))[0])
    runs = [*row.runs[task].values(), *alone.runs[task].values()]
    return Cell(f"{gain:+.1f}" + marks.get((row.name, task), ""), gain, runs=runs)


def cost_table(block: Block) -> Table:
    """Parameters, time, speed and memory by method: means over the runs of a row."""
    rows = [[Cell(row.name), *_cost(row)] for row in block.rows]
    columns = ["method", "trained weights", "% of all", "training, min", "run, min", "tokens/s", "peak memory, GB"]
    note = "Means over runs. Training: optimiser steps alone; run: with loading, validation and scoring."
    alone = ["Of runs on single tasks: means over tasks, too."] if block.single else []
    return Table(f"cost, {block.title}", columns, rows, [*block.facts, note, *alone])


def _cost(row: Row) -> list[Cell]:
    results = [run.results for run in row.all_runs]

    def mean(values: Iterable[float | None], form: str) -> Cell:
        """The mean of what is known."""
        known = [value for value in values if value is not None]
        if not known:
            return NOTHING
        middle = sum(known) / len(known)
        return Cell(form.format(middle), middle, runs=row.all_runs)

    sizes = [found.get("parameters") or {} for found in results]
    shares = [100 * size["trainable"] / size["total"] for size in sizes if size.get("total")]
    return [
        _trained(row.all_runs),
        mean(shares, "{:.3f}"),
        mean((_per(found.get("train_seconds"), 60) for found in results), "{:,.2f}"),
        mean((_per(found.get("seconds"), 60) for found in results), "{:,.2f}"),
        mean((found.get("tokens_per_second") for found in results), "{:,.0f}"),
        mean((_per(found.get("peak_memory_bytes"), 1e9) for found in results), "{:.2f}"),
    ]


def _per(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


# PART: The paper's numbers beside ours, where the model is the same; its errata are marked.


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
    rows = [
        line for row in block.rows for line in [*_weights(row, model, numbers), *_paper_scores(row, block, numbers)]
    ]
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


def _paper_scores(row: Row, block: Block, numbers: Mapping[str, Any]) -> list[list[Cell]]:
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
