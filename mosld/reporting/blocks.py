"""Sort runs into blocks: the rows and columns of one table, of which all numbers can be compared.

A block has one source, one base model, one prompt and one set of rows of data. Runs on single tasks form a block
together, one column each, every column on one set of rows. A mixture is compared with them where it trained and was
scored on the same rows of the task.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import Literal, NamedTuple

from mosld.reporting.collect import CollectedRuns
from mosld.reporting.run import Run, common_settings_note, group_by, heading, row_differences, row_order, sort_tasks
from mosld.reporting.significance import mean_and_spread

ScoreName = Literal["accuracy", "strict", "flexible"]
RANK, DROPOUT, ALLOCATION = "method.rank", "method.dropout", "allocation.experts"


@dataclass(frozen=True)
class Row:
    """One row of a table: a method with its settings.

    Attributes:
        differences: each setting in which other rows of the method differ from it, as text.
        runs: by task, then by seed.
    """

    differences: Mapping[str, str]
    runs: Mapping[str, Mapping[int, Run]] = field(repr=False)

    @property
    def name(self) -> str:
        """The method and what sets it apart, as in ``mosld rank=4``."""
        return self.name_without()

    def name_without(self, *keys: str) -> str:
        """The name without these settings."""
        return " ".join([self.run.method, *(text for key, text in self.differences.items() if key not in keys)])

    @cached_property
    def all_runs(self) -> list[Run]:
        """Every run of the row once."""
        return list({run.path: run for by_seed in self.runs.values() for run in by_seed.values()}.values())

    @property
    def run(self) -> Run:
        """Any run of the row: they agree in method and settings."""
        return self.all_runs[0]

    def task_runs(self, task: str) -> list[Run]:
        return list(self.runs.get(task, {}).values())

    def accuracies(self, task: str, score: ScoreName = "accuracy") -> dict[int, float]:
        """Accuracy by seed, or `strict` or `flexible`; empty if there is no run with this score."""
        by_seed = sorted(self.runs.get(task, {}).items())
        return {seed: float(run.scores[task][score]) for seed, run in by_seed if score in run.scores[task]}

    def averages(self, tasks: Iterable[str]) -> dict[int, float]:
        """Mean accuracy over these tasks, weighted equally, for each seed that has them all."""
        columns = [self.accuracies(task) for task in tasks]
        seeds = sorted(set.intersection(*(set(column) for column in columns))) if columns else []
        return {seed: mean_and_spread([column[seed] for column in columns])[0] for seed in seeds}


@dataclass(frozen=True)
class Block:
    """What one table shows.

    Attributes:
        title: what was trained on or evaluated, on which model and source.
        facts: what holds for all of it, one sentence each: fingerprints, items, what its runs note of their rows.
        single_tasks: whether each column comes from runs on that task only.
    """

    title: str
    facts: list[str]
    tasks: list[str]
    rows: list[Row]
    single_tasks: bool

    @property
    def run(self) -> Run:
        """Any run of the block: they agree in source, model and prompt."""
        return self.rows[0].run

    def matching_row(self, row: Row, task: str, equal_steps: bool = False) -> Row | None:
        """The row with the same method and settings that has runs on this task.

        Args:
            equal_steps: instead a row with other epochs whose runs on the task have as many optimiser steps.
        """

        def fits(candidate: Row) -> bool:
            same = candidate.run.row_key == row.run.row_key
            if not equal_steps:
                return same
            keys = {run.row_key_at_equal_steps for one in (candidate, row) for run in one.task_runs(task)}
            return not same and len(keys) == 1 and None not in keys

        return next((candidate for candidate in self.rows if candidate.task_runs(task) and fits(candidate)), None)

    def comparable(self, other: "Block", task: str) -> bool:
        """Whether both have one source, model and prompt and, for this task, the same rows."""
        shared = self.run.setup == other.run.setup and task in self.tasks and task in other.tasks
        return shared and self._task_rows(task) == other._task_rows(task)

    def _task_rows(self, task: str) -> tuple[str | None, int | None]:
        return next(run for row in self.rows for run in row.task_runs(task)).task_rows(task)


class Sweep(NamedTuple):
    """Rows that differ only in one setting: their common name, the key, and each row with its value, sorted."""

    name: str
    key: str
    rows: list[tuple[float, Row]]


class Grid(NamedTuple):
    """Rows that differ only in rank and dropout: their common name, the values, and the rows by (rank, dropout)."""

    name: str
    ranks: list[float]
    dropouts: list[float]
    rows: dict[tuple[float, float], Row]


def make_blocks(collected: CollectedRuns) -> list[Block]:
    """Sort runs into blocks; a second run of one row, task and seed is added to `collected.left_out`."""
    # Rows are named within a family, so that a method has the same names in all tables of one model and source.
    families = group_by(collected.runs, _family_key)
    blocks = []
    for runs in group_by(collected.runs, _block_key).values():
        parts = _split_by_task_rows(runs) if runs[0].single_task else [runs]
        blocks += [_block(part, families[_family_key(part[0])], collected) for part in parts]
    blocks = [block for alike in group_by(blocks, lambda block: block.title).values() for block in _retitled(alike)]
    return sorted(
        blocks, key=lambda block: (block.run.trained_on is not None, block.single_tasks, block.title, block.facts)
    )


def _family_key(run: Run) -> tuple[object, ...]:
    return (*run.setup, run.trained_on is None)


def _block_key(run: Run) -> tuple[object, ...]:
    if run.single_task:
        return (*run.setup, True, *(str(run.config.get(key)) for key in ("data.limit", "evaluation.limit")))
    return (*run.setup, False, run.data, run.trained_on, run.fingerprint, *sorted(run.test_items.items()))


def _split_by_task_rows(runs: list[Run]) -> list[list[Run]]:
    """Runs on single tasks in as few lists as possible, each task of a list with one set of rows."""

    def task(run: Run) -> str:
        return next(iter(run.scores))

    by_task = []
    for task_runs in group_by(runs, task).values():
        by_rows = group_by(task_runs, lambda run: str((run.task_rows(task(run)), run.fingerprint)))
        by_task.append([by_rows[key] for key in sorted(by_rows)])
    return [[run for task_runs in part for run in task_runs] for part in zip_longest(*by_task, fillvalue=[])]


def _block(runs: list[Run], family: list[Run], collected: CollectedRuns) -> Block:
    rows: dict[str, dict[str, dict[int, Run]]] = {}
    for run in sorted(runs, key=row_order):
        row = rows.setdefault(run.row_key, {})
        for task in run.scores:
            first = row.setdefault(task, {}).setdefault(run.seed, run)
            if first is not run:
                collected.left_out.append((run.path, f"has the method, settings, data and seed of {first.path}"))
                break
    run = runs[0]
    name = "single tasks" if run.single_task else run.data
    if run.trained_on:
        name = f"{run.data}, trained on {run.trained_on}"
    tasks = sort_tasks(task for run in runs for task in run.scores)
    differences = row_differences(family)
    return Block(
        f"{name}: {heading(run)}",
        _facts(runs, family, tasks),
        tasks,
        [Row(differences[key], by_task) for key, by_task in rows.items()],
        run.single_task,
    )


def _facts(runs: list[Run], family: list[Run], tasks: list[str]) -> list[str]:
    """Fingerprints and test items, what the runs note of their rows, and the settings that row names leave out."""
    items = {task: next(run.test_items[task] for run in runs if task in run.scores) for task in tasks}
    counts = ", ".join(f"{task} {count}" for task, count in items.items() if count)
    prints = {f"{next(iter(run.scores))} {run.fingerprint}" if run.single_task else run.fingerprint for run in runs}
    rows = f"data fingerprint{'s' * (len(prints) > 1)}: {', '.join(sorted(prints))}; test items: {counts}"
    notes = [str(note) for run in runs for note in run.results["data"].get("notes") or []]
    starts = [(run.method, run.config["init_from"]) for run in runs if run.config.get("init_from")]
    notes += [f"{method} starts from the weights in {folder} (init_from)." for method, folder in starts]
    by_method = group_by(family, lambda run: run.method)
    common = [common_settings_note(method, by_method[method]) for method in sorted({run.method for run in runs})]
    return [rows, *dict.fromkeys(notes), *(note for note in common if note)]


def _retitled(blocks: list[Block]) -> list[Block]:
    """Blocks of one title, each with what sets it apart appended: fingerprint, number of test items, or a number."""
    if len(blocks) == 1:
        return blocks
    blocks = sorted(blocks, key=lambda block: block.facts)
    prints = [f"fingerprint {block.run.fingerprint}" for block in blocks]
    items = [f"{sum(count or 0 for count in block.run.test_items.values())} test items" for block in blocks]
    numbers = [f"no. {i}" for i in range(1, len(blocks) + 1)]
    texts = next(texts for texts in (prints, items, numbers) if len(set(texts)) == len(blocks))
    return [replace(block, title=f"{block.title}, {text}") for block, text in zip(blocks, texts, strict=True)]


def sweeps(block: Block) -> Iterator[Sweep]:
    """For each method and each number (or allocation), the largest set of rows that differ only in it, if there is one.

    There may be several such sets, such as ranks at each of some dropouts.
    """
    for key in sorted({key for row in block.rows for key in row.differences}):
        largest: dict[str, Sweep] = {}
        for rows in _rows_alike_but_for(block, key):
            values = list(range(len(rows))) if key == ALLOCATION else [_number(row, key) for row in rows]
            points = [(float(value), row) for value, row in zip(values, rows, strict=True) if value is not None]
            method = rows[0].run.method
            if len(points) > max(1, len(largest[method].rows) if method in largest else 0):
                largest[method] = Sweep(rows[0].name_without(key), key, sorted(points, key=lambda point: point[0]))
        yield from largest.values()


def grids(block: Block) -> Iterator[Grid]:
    """For each method, the first set of rows that differ only in rank and dropout and have two values of each."""
    methods = set()
    for rows in _rows_alike_but_for(block, RANK, DROPOUT):
        cells = {}
        for row in rows:
            rank, dropout = _number(row, RANK), _number(row, DROPOUT)
            if rank is not None and dropout is not None:
                cells[rank, dropout] = row
        ranks, dropouts = sorted({rank for rank, _ in cells}), sorted({dropout for _, dropout in cells})
        if len(ranks) > 1 and len(dropouts) > 1 and rows[0].run.method not in methods:
            methods.add(rows[0].run.method)
            yield Grid(rows[0].name_without(RANK, DROPOUT), ranks, dropouts, cells)


def _rows_alike_but_for(block: Block, *keys: str) -> list[list[Row]]:
    def rest(row: Row) -> str:
        settings = {key: value for key, value in row.run.settings.items() if key not in keys}
        return json.dumps([row.run.method, settings], sort_keys=True)

    return [rows for rows in group_by(block.rows, rest).values() if len(rows) > 1]


def _number(row: Row, key: str) -> float | None:
    value = row.run.settings.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
