"""The tables of a block, out of results.json: scores, mixture minus single, and cost."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from mosld.reporting.blocks import Block, Row, ScoreName
from mosld.reporting.run import Run
from mosld.reporting.significance import mean_and_spread, mean_difference
from mosld.reporting.table import NO_VALUE, Cell, Table

AVERAGE = "average"
SCORES_NOTE = (
    "Accuracy in %, mean ± standard deviation over seeds (no ± for one seed, or where all seeds agree); bold: better "
    "than the next by more than the 95 % interval over items; - no run."
)
OTHERS_NOTE = "Strict, flexible: as lm-evaluation-harness scores the same texts (strict-match, flexible-extract)."
GAINS_NOTE = (
    "The run on the mixture minus that on the task alone, in points: mean over the seeds that both have, without any "
    "the difference of the means; the same rows of the task in both; - no such pair."
)
EQUAL_STEPS_NOTE = "The runs on one task have as many optimiser steps as those on the mixture: more epochs of its rows."
COST_NOTE = (
    "Means over runs. Training: optimiser steps only, over all starts of a resumed run; run: its last start, with "
    "loading, validation and scoring."
)

OTHER_SCORES: tuple[ScoreName, ...] = ("strict", "flexible")

Marks = Mapping[tuple[str, str], str]
"""By (row name, task) what stands behind a number: a star where a difference is significant."""


def columns_of(block: Block) -> list[str]:
    """The tasks, and their average if there are several."""
    return [*block.tasks, *([AVERAGE] if len(block.tasks) > 1 else [])]


def accuracies_of(row: Row, tasks: Iterable[str], column: str) -> dict[int, float]:
    """Accuracy by seed on one task, or averaged over the tasks."""
    return row.averages(tasks) if column == AVERAGE else row.accuracies(column)


def scores_table(block: Block, marks: Marks, winners: Mapping[str, str]) -> Table:
    """Accuracy by method and task.

    Args:
        marks: what stands behind numbers.
        winners: by task the name of the row that is in bold.
    """
    columns = columns_of(block)
    others = _other_scores(block)
    untrained = any(run.results.get("base_scores") for row in block.rows for run in row.all_runs)
    rows = [_untrained(block, columns, others)] if untrained else []
    rows += [_scores(row, block.tasks, columns, others, marks, winners) for row in block.rows]
    heads = ["method", *columns, *(f"{task}, {score}" for task, score in others), "seeds", "trained weights"]
    notes = [*block.facts, SCORES_NOTE, *([OTHERS_NOTE] if others else [])]
    return Table(block.title, heads, rows, notes)


def _other_scores(block: Block) -> list[tuple[str, ScoreName]]:
    """The tasks whose solutions lm-evaluation-harness would score in another way, with the names of these scores."""
    return [
        (task, score)
        for task in block.tasks
        for score in OTHER_SCORES
        if any(row.accuracies(task, score) for row in block.rows)
    ]


def _scores(
    row: Row,
    tasks: Sequence[str],
    columns: Sequence[str],
    others: Sequence[tuple[str, ScoreName]],
    marks: Marks,
    winners: Mapping[str, str],
) -> list[Cell]:
    cells = [Cell(row.name)]
    for column in columns:
        by_seed = accuracies_of(row, tasks, column)
        runs = row.all_runs if column == AVERAGE else row.task_runs(column)
        cell = accuracy_cell(by_seed, runs, marks.get((row.name, column), ""))
        cells.append(replace(cell, best=winners.get(column) == row.name))
    cells += [accuracy_cell(row.accuracies(task, score), row.task_runs(task)) for task, score in others]
    counts = sorted({len(row.runs[task]) for task in tasks if row.runs.get(task)})
    return [*cells, Cell(_range(counts), counts[0]), _trained_weights(row.all_runs)]


def accuracy_cell(by_seed: Mapping[int, float], runs: Sequence[Run], mark: str = "") -> Cell:
    """Mean and deviation over seeds in per cent, with a mark behind them."""
    if not by_seed:
        return NO_VALUE
    mean, spread = mean_and_spread([100 * value for value in by_seed.values()])
    deviation = f" ± {spread:.1f}" if spread is not None and round(spread, 1) else ""
    text = f"{mean:.1f}{deviation}{mark}"
    return Cell(text, mean, spread, len(by_seed), runs=runs)


def _trained_weights(runs: Sequence[Run]) -> Cell:
    counts = sorted({run.trained_weights for run in runs if run.trained_weights is not None})
    return Cell(_range(counts), counts[0], runs=runs) if counts else NO_VALUE


def _range(counts: Sequence[int]) -> str:
    """Sorted numbers as text: ``3``, or ``2 to 3``."""
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def _untrained(block: Block, columns: Sequence[str], others: Sequence[tuple[str, ScoreName]]) -> list[Cell]:
    """The row of the untrained model: no seeds, since nothing is random."""
    scores: dict[str, tuple[float, Run]] = {}
    for row in block.rows:
        for run in row.all_runs:
            for task, score in (run.results.get("base_scores") or {}).items():
                scores.setdefault(task, (100 * score["accuracy"], run))
                for other in (other for name, other in others if name == task and other in score):
                    scores.setdefault(f"{task}, {other}", (100 * score[other], run))
    if all(task in scores for task in block.tasks):
        values = [scores[task][0] for task in block.tasks]
        scores[AVERAGE] = (sum(values) / len(values), scores[block.tasks[0]][1])
    heads = [*columns, *(f"{task}, {score}" for task, score in others)]
    cells = [Cell(f"{scores[c][0]:.1f}", scores[c][0], runs=[scores[c][1]]) if c in scores else NO_VALUE for c in heads]
    return [Cell("(untrained)"), *cells, NO_VALUE, Cell("0", 0)]


def gains_table(mixture: Block, singles: Sequence[Block], marks: Marks, equal_steps: bool = False) -> Table | None:
    """Accuracy after training on the mixture minus that after training on the task alone (the paper's figure 1).

    None if no method has both on the same rows.

    Args:
        marks: what stands behind numbers.
        equal_steps: compare with runs that have as many optimiser steps, and not as many epochs.
    """
    rows = []
    for row in mixture.rows:
        pairs = [(single_row(mixture, singles, row, task, equal_steps), task) for task in mixture.tasks]
        cells = [_gain(row, single, task, marks) for single, task in pairs]
        gains = [cell.value for cell in cells if cell.value is not None]
        if gains:
            mean = sum(gains) / len(gains)
            complete = len(gains) == len(mixture.tasks)
            text = f"{mean:+.1f}{marks.get((row.name, AVERAGE), '')}"
            average = Cell(text, mean, runs=row.all_runs) if complete else NO_VALUE
            rows.append([Cell(row.name), *cells, average])
    if not rows:
        return None
    notes = [*mixture.facts, GAINS_NOTE, *([EQUAL_STEPS_NOTE] if equal_steps else [])]
    title = f"mixture minus single{' at equal steps' if equal_steps else ''}, {mixture.title}"
    return Table(title, ["method", *mixture.tasks, AVERAGE], rows, notes)


def single_row(mixture: Block, singles: Sequence[Block], row: Row, task: str, equal_steps: bool = False) -> Row | None:
    """The runs of the same method and settings on this task alone, on the same rows (`Block.matching_row`)."""
    for block in singles:
        if block.comparable(mixture, task) and (single := block.matching_row(row, task, equal_steps)):
            return single
    return None


def _gain(row: Row, single: Row | None, task: str, marks: Marks) -> Cell:
    accuracies = row.accuracies(task)
    if single is None or not accuracies:
        return NO_VALUE
    gain = 100 * mean_difference(accuracies, single.accuracies(task))
    runs = [*row.task_runs(task), *single.task_runs(task)]
    return Cell(f"{gain:+.1f}" + marks.get((row.name, task), ""), gain, runs=runs)


def cost_table(block: Block) -> Table:
    """Parameters, time, speed and memory by method: means over the runs of a row."""
    columns = ["method", "trained weights", "% of all", "training, min", "run, min", "tokens/s", "peak memory, GB"]
    notes = [*block.facts, COST_NOTE]
    if block.single_tasks:
        notes.append("Of runs on single tasks: means over tasks, too.")
    return Table(f"cost, {block.title}", columns, [_cost(row) for row in block.rows], notes)


def _cost(row: Row) -> list[Cell]:
    def mean(value: Callable[[Run], float | None], unit: float, form: str) -> Cell:
        values = [number / unit for run in row.all_runs if (number := value(run)) is not None]
        if not values:
            return NO_VALUE
        average = sum(values) / len(values)
        return Cell(form.format(average), average, runs=row.all_runs)

    return [
        Cell(row.name),
        _trained_weights(row.all_runs),
        mean(_trained_share, 1, "{:.3f}"),
        mean(lambda run: run.results.get("train_seconds"), 60, "{:,.2f}"),
        mean(lambda run: run.results.get("seconds"), 60, "{:,.2f}"),
        mean(lambda run: run.results.get("tokens_per_second"), 1, "{:,.0f}"),
        mean(lambda run: run.results.get("peak_memory_bytes"), 1e9, "{:.2f}"),
    ]


def _trained_share(run: Run) -> float | None:
    """Trained weights in per cent of all."""
    total = (run.results.get("parameters") or {}).get("total")
    return 100 * run.trained_weights / total if run.trained_weights is not None and total else None
