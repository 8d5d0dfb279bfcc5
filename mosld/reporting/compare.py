"""Tables of significance: each row against a reference row, and each mixture against its runs on single tasks."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mosld.common.files import JsonObject
from mosld.common.reading import parse_json, read_lines, require_shape
from mosld.common.seal import seal_of
from mosld.config.schema import LETTER_PROMPTS
from mosld.reporting.blocks import Block, Row
from mosld.reporting.run import Run
from mosld.reporting.significance import (
    ROUNDING_ERROR,
    Floats,
    bootstrap_means,
    bootstrap_p,
    holm,
    mean_and_spread,
    mean_difference,
    paired_t,
    percentile_interval,
    welch_t,
)
from mosld.reporting.table import NO_VALUE, Cell, Table
from mosld.reporting.tables import AVERAGE, accuracies_of, columns_of, single_row
from mosld.runs.power import (
    ALPHA,
    MAX_SEEDS,
    POWER,
    SMALLEST,
    pooled_deviation,
    seeds_needed,
    smallest_for_error,
    smallest_on_average,
    smallest_over_seeds,
)

SIGNIFICANCE_LEVEL = 0.05
TESTS = ("items", "paired", "welch")
COLUMNS = [
    "method", "task", "difference", "95 % interval", "p, items", "Holm", "p, paired seeds", "Holm", "p, Welch", "Holm",
    "seeds", "seeds needed",
]  # fmt: skip
NOTES = [
    "Difference in points of accuracy. p, items: bootstrap over the test items ({resamples:,} resamples, percentile "
    "interval), paired by item and seed; p, paired seeds: Student's t-test of accuracies paired by seed; p, Welch: "
    "Welch's t-test over seeds. Holm: corrected over all rows of this table. - needs two seeds, or predictions.",
    "Seeds: those of each side; the difference, its interval and the paired tests use the seeds that both have. Tests "
    "over items say nothing about other seeds, tests over seeds nothing about other items. Seeds needed: of each side, "
    f"to show this difference by Welch's test (power {POWER:g}, alpha {ALPHA:g}, before Holm's correction).",
]

Bootstrap = tuple[float, Floats]
"""An observed mean over items, and its bootstrapped means [D]."""


class Predictions:
    """Reads `predictions/<task>.jsonl`, each file once and only when a comparison needs it.

    Attributes:
        problems: files that are missing, damaged or do not add up to results.json, with the reason.
    """

    def __init__(self) -> None:
        self.problems: dict[Path, str] = {}
        self._read: dict[tuple[Path, str], dict[str, bool] | None] = {}

    def correct(self, run: Run, task: str) -> dict[str, bool] | None:
        """Whether each item, by its id, was answered correctly; None if the file cannot be used."""
        key = (run.path, task)
        if key not in self._read:
            self._read[key] = None
            path = run.path / "predictions" / f"{task}.jsonl"
            try:
                self._read[key] = _read_correct(path, run, task)
            except (ValueError, KeyError, TypeError) as error:
                self.problems[path] = f"damaged ({error})" if path.exists() else "missing"
        return self._read[key]

    def differences(self, runs: Mapping[int, Run], others: Mapping[int, Run], task: str) -> Floats | None:
        """For each item the mean over the seeds of both sides of correct(run) - correct(other run) [N].

        None if no seed can be paired: predictions are missing, or the runs were not asked the same items.
        """
        by_seed: list[Floats] = []
        items: list[str] = []
        for seed in sorted(runs.keys() & others.keys()):
            here, there = self.correct(runs[seed], task), self.correct(others[seed], task)
            if here is None or there is None or here.keys() != there.keys():
                continue
            items = items or sorted(here)
            if here.keys() == set(items):
                by_seed.append(np.array([here[item] - there[item] for item in items], dtype=float))
        return np.sum(by_seed, axis=0) / len(by_seed) if by_seed else None


def _read_correct(path: Path, run: Run, task: str) -> dict[str, bool]:
    if fault := seal_of(run.path).fault(path):
        raise ValueError(fault)
    records = require_shape([parse_json(line, path) for line in read_lines(path)], list[JsonObject], path)
    # As in evaluation: likelihood per character where the answer is the option's text, plain where it is a letter.
    per_character = run.prompt not in LETTER_PROMPTS and records and "normalised_correct" in records[0]
    key = "normalised_correct" if per_character else "correct"
    correct = {str(record["id"]): bool(record[key]) for record in records}
    if not records or abs(sum(correct.values()) - run.accuracy(task) * len(records)) > 1e-6 * len(records):
        raise ValueError("its items do not add up to the accuracy in results.json")
    return correct


@dataclass
class Comparison:
    """One row of a table of significance; accuracies by seed and numbers are shares of 1.

    Attributes:
        task: or "average".
        here: accuracies of the row.
        there: accuracies of the row that it is compared with.
        interval: of the difference; None without predictions.
        item_error: the bootstrap's standard error of the difference; None without predictions.
        p: by test; None if it needs more seeds or predictions.
        corrected: the same after Holm's correction over the table.
    """

    name: str
    task: str
    here: dict[int, float]
    there: dict[int, float]
    interval: tuple[float, float] | None = None
    item_error: float | None = None
    p: dict[str, float | None] = field(default_factory=dict)
    corrected: dict[str, float | None] = field(default_factory=dict)

    @property
    def shared_seeds(self) -> list[int]:
        return sorted(self.here.keys() & self.there.keys())

    @property
    def difference(self) -> float:
        """Mean difference over the seeds of both sides; without any, the difference of the means."""
        return mean_difference(self.here, self.there)

    @property
    def seeds_needed(self) -> str:
        """How many seeds a side would show the difference, by Welch's test; "-" where the spread is unknown."""
        deviation = pooled_deviation([list(self.here.values()), list(self.there.values())])
        if deviation is None or abs(self.difference) < ROUNDING_ERROR:
            return NO_VALUE.text
        needed = seeds_needed(self.difference, deviation)
        return f"> {MAX_SEEDS:,}" if needed is None else str(needed)


@dataclass(frozen=True)
class Comparer:
    """Compares rows by their accuracies and predictions.

    Attributes:
        predictions: reads which items each run got right.
        resamples: of the bootstrap; 0: predictions are not read.
    """

    predictions: Predictions
    resamples: int

    def against(self, block: Block, rows: Sequence[Row], reference: Row) -> list[Comparison]:
        """Every row against the reference, for each task and on average."""
        comparisons = []
        for row in rows:
            boots = self._bootstraps([(row, reference, task) for task in block.tasks])
            comparisons += [
                _compare(row.name, task, row.accuracies(task), reference.accuracies(task), boots.get(task))
                for task in block.tasks
                if row.accuracies(task) and reference.accuracies(task)
            ]
            here, there = row.averages(block.tasks), reference.averages(block.tasks)
            if len(block.tasks) > 1 and here and there:
                comparisons.append(_compare(row.name, AVERAGE, here, there, _average(block.tasks, boots)))
        return _correct(comparisons)

    def mixture_against_single(
        self, mixture: Block, singles: Sequence[Block], equal_steps: bool = False
    ) -> list[Comparison]:
        """Every row of a mixture against its own runs on single tasks, for each task and on average.

        Args:
            equal_steps: against runs that have as many optimiser steps, and not as many epochs.
        """
        comparisons = []
        for row in mixture.rows:
            candidates = [(single_row(mixture, singles, row, task, equal_steps), task) for task in mixture.tasks]
            pairs = [(row, single, task) for single, task in candidates if single and row.accuracies(task)]
            boots = self._bootstraps(pairs)
            comparisons += [
                _compare(row.name, task, row.accuracies(task), single.accuracies(task), boots.get(task))
                for _, single, task in pairs
            ]
            alone = Row(row.differences, {task: single.runs[task] for _, single, task in pairs})
            here, there = row.averages(mixture.tasks), alone.averages(mixture.tasks)
            if len(mixture.tasks) > 1 and here and there:
                comparisons.append(_compare(row.name, AVERAGE, here, there, _average(mixture.tasks, boots)))
        return _correct(comparisons)

    def winners(self, block: Block) -> dict[str, str]:
        """By column the row that is better than the next beyond the 95 % interval over items, if there is one."""
        winners = {}
        for column in columns_of(block):
            means = [
                (mean_and_spread(list(by_seed.values()))[0], row)
                for row in block.rows
                if (by_seed := accuracies_of(row, block.tasks, column))
            ]
            if len(means) < 2:
                continue
            (_, best), (_, second), *_ = sorted(means, key=lambda pair: -pair[0])
            tasks = block.tasks if column == AVERAGE else [column]
            boots = self._bootstraps([(best, second, task) for task in tasks])
            boot = _average(tasks, boots)
            if boot and percentile_interval(boot[1])[0] > 0:
                winners[column] = best.name
        return winners

    def _bootstraps(self, pairs: Sequence[tuple[Row, Row, str]]) -> dict[str, Bootstrap]:
        """By task the bootstrap of the mean difference over items, if there are predictions."""
        if not self.resamples:
            return {}
        # Tasks with the same number of items see the same draws: one product for all of them.
        by_items: dict[int, dict[str, Floats]] = {}
        for row, other, task in pairs:
            values_N = self.predictions.differences(row.runs.get(task, {}), other.runs.get(task, {}), task)
            if values_N is not None:
                by_items.setdefault(len(values_N), {})[task] = values_N
        boots = {}
        for by_task in by_items.values():
            means_DR = bootstrap_means(np.stack(list(by_task.values()), axis=1), self.resamples)
            for (task, values_N), means_D in zip(by_task.items(), means_DR.T, strict=True):
                boots[task] = (float(values_N.mean()), means_D)
        return boots


def _average(tasks: Sequence[str], boots: Mapping[str, Bootstrap]) -> Bootstrap | None:
    """Mean over tasks, each resampled on its own; None if a task has no predictions."""
    if not all(task in boots for task in tasks):
        return None
    observed = mean_and_spread([boots[task][0] for task in tasks])[0]
    return observed, np.mean([boots[task][1] for task in tasks], axis=0)


def _compare(
    name: str, task: str, here: dict[int, float], there: dict[int, float], bootstrap: Bootstrap | None
) -> Comparison:
    comparison = Comparison(name, task, here, there)
    if bootstrap:
        comparison.interval = percentile_interval(bootstrap[1])
        comparison.item_error = float(bootstrap[1].std())
        comparison.p["items"] = bootstrap_p(*bootstrap)
    seeds = comparison.shared_seeds
    comparison.p["paired"] = paired_t([here[seed] for seed in seeds], [there[seed] for seed in seeds])
    comparison.p["welch"] = welch_t(list(here.values()), list(there.values()))
    return comparison


def _correct(comparisons: list[Comparison]) -> list[Comparison]:
    for test in TESTS:
        values = holm([comparison.p.get(test) for comparison in comparisons])
        for comparison, value in zip(comparisons, values, strict=True):
            comparison.corrected[test] = value
    return comparisons


def significance_marks(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], str]:
    """A star for each (row name, task) whose p over items is below .05 after Holm's correction."""
    values = {(comparison.name, comparison.task): comparison.corrected["items"] for comparison in comparisons}
    return {key: "*" for key, value in values.items() if value is not None and value < SIGNIFICANCE_LEVEL}


def comparison_table(title: str, comparisons: Sequence[Comparison], facts: Sequence[str], resamples: int) -> Table:
    """A row for each comparison, with the definition of its columns in the notes."""
    rows = [list(_cells(comparison)) for comparison in comparisons]
    return Table(title, COLUMNS, rows, [*facts, NOTES[0].format(resamples=resamples), NOTES[1]], long=True)


def scores_power_note(block: Block, comparisons: Sequence[Comparison]) -> str | None:
    """What a table of scores can show of the average (or the only task) of two rows, and the seeds its two best need.

    Args:
        comparisons: of its rows with one of them.
    """
    column = columns_of(block)[-1]
    accuracies = {row.name: accuracies_of(row, block.tasks, column) for row in block.rows}
    rows = sorted((-mean_and_spread(list(row.values()))[0], name) for name, row in accuracies.items() if row)
    tasks_of_rows = [_accuracies_and_items(row, block.tasks) for row in block.rows]
    sizes = [smallest_on_average(tasks) for tasks in tasks_of_rows if len(tasks) == len(block.tasks)]
    note = _power_note(accuracies.values(), [one for one in comparisons if one.task == column], sizes)
    if note is None or len(rows) < 2:
        return note
    (_, best), (_, second), *_ = rows
    pair = Comparison(best, column, accuracies[best], accuracies[second])
    points, needed = 100 * pair.difference, pair.seeds_needed
    if needed == NO_VALUE.text:
        return note
    return f"{note}; {best} - {second} ({points:+.1f}) needs {needed} seeds a side on these items"


def gains_power_note(mixture: Block, comparisons: Sequence[Comparison]) -> str | None:
    """What a table of the mixture minus single tasks can show on average, or of a task where no row has them all."""
    averages = [one for one in comparisons if one.task == AVERAGE]
    columns = [mixture.tasks] if averages else [[task] for task in mixture.tasks]
    items = [_accuracies_and_items(row, tasks) for row in mixture.rows for tasks in columns]
    sizes = [smallest_on_average(tasks) for tasks in items if tasks]
    shown = averages or comparisons
    note = _power_note([side for one in shown for side in (one.here, one.there)], shown, sizes)
    return note and f"{note}; {'on average' if averages else 'of one task'}"


def _accuracies_and_items(row: Row, tasks: Sequence[str]) -> list[tuple[float, int]]:
    """Of the first run of each task; without tasks that have none, or that do not say how many items they have."""
    runs = [(task, run) for task in tasks for run in row.task_runs(task)[:1]]
    return [(run.accuracy(task), items) for task, run in runs if (items := run.test_items[task])]


def _power_note(
    sides: Iterable[Mapping[int, float]], comparisons: Sequence[Comparison], independent: Sequence[float]
) -> str | None:
    """The smallest differences over items, from the comparisons' own errors if there are any, and over seeds."""
    errors = [one.item_error for one in comparisons if one.item_error]
    sizes = [smallest_for_error(error) for error in errors] or independent
    if not sizes:
        return None
    groups = [list(side.values()) for side in sides if len(side) > 1]
    deviation = pooled_deviation(groups)
    over_items = 100 * math.sqrt(sum(size**2 for size in sizes) / len(sizes))
    note = f"{SMALLEST}: {over_items:.1f} points over items{' (paired)' if errors else ''}"
    if deviation is None:
        return f"{note}; over seeds: one run cannot tell"
    seeds = min(map(len, groups))
    return f"{note}, {100 * smallest_over_seeds(deviation, seeds):.1f} over {seeds} seeds a side"


def _cells(comparison: Comparison) -> Iterator[Cell]:
    yield Cell(comparison.name)
    yield Cell(comparison.task)
    points = 100 * comparison.difference
    yield Cell(f"{points:+.1f}", points)
    if comparison.interval is None:
        yield NO_VALUE
    else:
        low, high = comparison.interval
        yield Cell(f"{100 * low:+.1f} to {100 * high:+.1f}", 100 * low)
    for test in TESTS:
        yield _p_cell(comparison.p.get(test))
        yield _p_cell(comparison.corrected.get(test))
    here, there = len(comparison.here), len(comparison.there)
    yield Cell(f"{here}" if here == there else f"{here} and {there}", min(here, there))
    needed = comparison.seeds_needed
    yield Cell(needed, float(needed)) if needed.isdigit() else Cell(needed)


def _p_cell(value: float | None) -> Cell:
    if value is None:
        return NO_VALUE
    if value < 0.001:
        return Cell("< .001", value)
    return Cell(f"{value:.3f}".lstrip("0").removesuffix(".000"), value)
