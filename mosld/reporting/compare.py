"""The tables of significance: each row against one, and each mixture against its single runs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mosld.reporting.blocks import Block, Row
from mosld.reporting.run import Run
from mosld.reporting.significance import (
    Floats,
    bootstrap_means,
    bootstrap_p,
    holm,
    interval,
    mean_and_spread,
    paired_t,
    welch_t,
)
from mosld.reporting.table import NOTHING, Cell, Table
from mosld.reporting.tables import AVERAGE, single_row

# PART: Which items each run got right, out of its predictions: what tests that pair items compare.


class Outcomes:
    """Reads `predictions/<task>.jsonl`, each file once and only when a comparison asks for it.

    Attributes:
        faults: files that are missing, damaged or at odds with results.json, with the reason.
    """

    def __init__(self) -> None:
        """Nothing is read yet."""
        self.faults: dict[Path, str] = {}
        self._read: dict[tuple[Path, str], dict[str, bool] | None] = {}

    def of(self, run: Run, task: str) -> dict[str, bool] | None:
        """Whether each item, by its id, was answered right; None where the file cannot be used."""
        key = (run.path, task)
        if key not in self._read:
            path = run.path / "predictions" / f"{task}.jsonl"
            try:
                self._read[key] = _outcomes(path, run, task)
            except FileNotFoundError:
                self.faults[path] = "missing"
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.faults[path] = f"damaged ({error})"
        return self._read.setdefault(key, None)

    def differences(self, runs: Mapping[int, Run], others: Mapping[int, Run], task: str) -> Floats | None:
        """For each item the mean over the seeds that both sides have of (right here) - (right there) [N].

        None where no seed can be paired: predictions are lacking, or two runs were not asked the same items.
        """
        sums, count, items = None, 0, None
        for seed in sorted(runs.keys() & others.keys()):
            here, there = self.of(runs[seed], task), self.of(others[seed], task)
            if here is None or there is None or here.keys() != there.keys():
                continue
            items = items or sorted(here)
            if len(items) != len(here) or items[0] not in here:
                continue
            paired = np.array([here[item] - there[item] for item in items], dtype=float)
            sums, count = paired if sums is None else sums + paired, count + 1
        return None if sums is None else sums / count


def _outcomes(path: Path, run: Run, task: str) -> dict[str, bool]:
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    # As scored: by likelihood where letters are answered, per character where the answer is the option's text.
    by_character = run.prompt != "letter" and records and "normalised_correct" in records[0]
    key = "normalised_correct" if by_character else "correct"
    right = {str(record["id"]): bool(record[key]) for record in records}
    if abs(sum(right.values()) - run.accuracy(task) * len(records)) > 1e-6 * len(records) or not records:
        raise ValueError("its items do not add up to the accuracy in results.json")
    return right


# PART: The tables of significance: each row against one, and each mixture against its single runs.


LEVEL = 0.05
TESTS = ("items", "paired", "welch")
COLUMNS = [
    "method", "task", "difference", "95 % interval", "p, items", "Holm", "p, paired seeds", "Holm", "p, Welch", "Holm",
    "seeds",
]  # fmt: skip
NOTES = [
    "Difference in points of accuracy. p, items: bootstrap over the test items ({resamples:,} resamples, percentile "
    "interval), paired by item and seed; p, paired seeds: Student's t-test of accuracies paired by seed; p, Welch: "
    "Welch's t-test over seeds. Holm: corrected over all rows of this table. - needs two seeds, or predictions.",
    "Seeds: those of each side; the difference, its interval and the paired tests use the seeds that both have. Items "
    "say nothing of what another seed would give, seeds nothing of other items.",
]


@dataclass
class Comparison:
    """One row of a table of significance; numbers in shares of 1."""

    name: str
    task: str
    a: dict[int, float]
    b: dict[int, float]
    low: float | None = None
    high: float | None = None
    p: dict[str, float | None] = field(default_factory=dict)
    corrected: dict[str, float | None] = field(default_factory=dict)

    @property
    def difference(self) -> float:
        """Mean difference over the seeds that both sides have; without any, the difference of the means."""
        seeds = self.shared
        a, b = ([side[seed] for seed in seeds] or list(side.values()) for side in (self.a, self.b))
        return mean_and_spread(a)[0] - mean_and_spread(b)[0]

    @property
    def shared(self) -> list[int]:
        """The seeds that both sides have."""
        return sorted(self.a.keys() & self.b.keys())

    def test(self, observed: float | None, means_D: Floats | None) -> "Comparison":
        """Fill in the interval and every p, `means_D` being the bootstrap of the observed mean over items."""
        if observed is not None and means_D is not None:
            self.low, self.high = interval(means_D)
            self.p["items"] = bootstrap_p(observed, means_D)
        self.p["paired"] = paired_t([self.a[seed] for seed in self.shared], [self.b[seed] for seed in self.shared])
        self.p["welch"] = welch_t(list(self.a.values()), list(self.b.values()))
        return self


@dataclass(frozen=True)
class Comparer:
    """Compares rows, out of their accuracies and predictions.

    Attributes:
        outcomes: reads the predictions.
        resamples: of the bootstrap; 0: predictions are not read.
    """

    outcomes: Outcomes
    resamples: int

    def against(self, block: Block, rows: Sequence[Row], other: Row) -> list[Comparison]:
        """Every row against `other`, for each task and on average."""
        found = []
        for row in rows:
            boots = self._boots([(row, other, task) for task in block.tasks])
            found += [
                _comparison(row, task, other.accuracies(task), boots.get(task))
                for task in block.tasks
                if row.accuracies(task) and other.accuracies(task)
            ]
            a, b = row.averages(block.tasks), other.averages(block.tasks)
            if len(block.tasks) > 1 and a and b:
                found.append(Comparison(row.name, AVERAGE, a, b).test(*_averaged(block.tasks, boots)))
        return corrected(found)

    def mixture_against_single(self, mixture: Block, singles: Sequence[Block]) -> list[Comparison]:
        """Every row of a mixture against its own runs on single tasks."""
        found = []
        for row in mixture.rows:
            alone = {task: single_row(mixture, singles, row, task) for task in mixture.tasks}
            pairs = [(row, other, task) for task, other in alone.items() if other and row.accuracies(task)]
            boots = self._boots(pairs)
            found += [_comparison(row, task, other.accuracies(task), boots.get(task)) for _, other, task in pairs]
        return corrected(found)

    def _boots(self, pairs: Sequence[tuple[Row, Row, str]]) -> dict[str, tuple[float, Floats]]:
        """By task: the mean difference over items and its bootstrap [D], where predictions allow it."""
        if not self.resamples:
            return {}
        columns: dict[int, dict[str, Floats]] = {}  # tasks with as many items see the same draws: one product for all
        for row, other, task in pairs:
            values = self.outcomes.differences(row.runs.get(task, {}), other.runs.get(task, {}), task)
            if values is not None:
                columns.setdefault(len(values), {})[task] = values
        boots = {}
        for by_task in columns.values():
            means_DR = bootstrap_means(np.stack(list(by_task.values()), axis=1), self.resamples)
            for (task, values), means in zip(by_task.items(), means_DR.T, strict=True):
                boots[task] = (float(values.mean()), means)
        return boots


def _comparison(row: Row, task: str, other: dict[int, float], boot: tuple[float, Floats] | None) -> Comparison:
    return Comparison(row.name, task, row.accuracies(task), other).test(*(boot or (None, None)))


def _averaged(tasks: Sequence[str], boots: Mapping[str, tuple[float, Floats]]) -> tuple[float | None, Floats | None]:
    """Mean over tasks, each resampled for itself; nothing where a task lacks predictions."""
    if not all(task in boots for task in tasks):
        return None, None
    observed = mean_and_spread([boots[task][0] for task in tasks])[0]
    return observed, np.mean([boots[task][1] for task in tasks], axis=0)


def corrected(comparisons: list[Comparison]) -> list[Comparison]:
    """The same comparisons, each kind of p corrected over all of them."""
    for test in TESTS:
        for comparison, value in zip(comparisons, holm([c.p.get(test) for c in comparisons]), strict=True):
            comparison.corrected[test] = value
    return comparisons


def marks(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], str]:
    """A star for each (row, task) whose bootstrapped p is below .05 after Holm's correction."""
    values = {(c.name, c.task): c.corrected["items"] for c in comparisons}
    return {key: "*" for key, value in values.items() if value is not None and value < LEVEL}


def comparison_table(title: str, comparisons: Sequence[Comparison], facts: Sequence[str], resamples: int) -> Table:
    """The comparisons as a table."""
    rows = [list(_cells(comparison)) for comparison in comparisons]
    return Table(title, COLUMNS, rows, [*facts, NOTES[0].format(resamples=resamples), NOTES[1]], long=True)


def _cells(comparison: Comparison) -> Iterator[Cell]:
    points = 100 * comparison.difference
    yield Cell(comparison.name)
    yield Cell(comparison.task)
    yield Cell(f"{points:+.1f}", points)
    if comparison.low is None or comparison.high is None:
        yield NOTHING
    else:
        yield Cell(f"{100 * comparison.low:+.1f} to {100 * comparison.high:+.1f}", 100 * comparison.low)
    for test in TESTS:
        yield _p(comparison.p.get(test))
        yield _p(comparison.corrected.get(test))
    here, there = len(comparison.a), len(comparison.b)
    yield Cell(f"{here}" if here == there else f"{here} and {there}", min(here, there))


def _p(value: float | None) -> Cell:
    if value is None:
        return NOTHING
    return Cell("< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1", value)
