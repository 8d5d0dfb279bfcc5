"""The second stage: runs that may stand in one table, and the rows of that table.

A table has one source, one base model, one prompt and one set of rows. Runs on single tasks make up a table together: a
column each, every column one set of rows. They are compared with a mixture where that trained and was scored on the
same rows of the task.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from mosld.reporting.collect import Found
from mosld.reporting.run import Run, heading, in_order, row_differences, row_order, usual_note
from mosld.reporting.significance import mean_and_spread

# PART: The second stage: runs that may stand in one table, and the rows of that table. A table has one source, one
# base model, one prompt and one set of rows. Runs on single tasks make up a table together: a column each, every
# column one set of rows. They are compared with a mixture where that trained and was scored on the same rows of the
# task.


@dataclass(frozen=True)
class Row:
    """One row of a table: a method with its settings.

    Attributes:
        differs: each setting in which other rows of the method differ from it, and how it is told.
        runs: by task, then by seed.
    """

    differs: Mapping[str, str]
    runs: Mapping[str, Mapping[int, Run]] = field(repr=False)

    @property
    def name(self) -> str:
        """The method and what sets it apart, as in ``mosld rank=4``."""
        return self.called()

    def called(self, *apart: str) -> str:
        """The name without these settings."""
        return " ".join([self.run.method, *(told for key, told in self.differs.items() if key not in apart)])

    @cached_property
    def all_runs(self) -> list[Run]:
        """Every run of the row once."""
        return list({run.path: run for by_seed in self.runs.values() for run in by_seed.values()}.values())

    @property
    def run(self) -> Run:
        """Any run of the row: they agree in method and settings."""
        return self.all_runs[0]

    def accuracies(self, task: str) -> dict[int, float]:
        """Accuracy by seed; empty where there is no run."""
        return {seed: run.accuracy(task) for seed, run in sorted(self.runs.get(task, {}).items())}

    def averages(self, tasks: Iterable[str]) -> dict[int, float]:
        """Mean accuracy over all of these tasks, each counting once, for each seed that has them all."""
        columns = [self.accuracies(task) for task in tasks]
        seeds = sorted(set.intersection(*(set(column) for column in columns))) if columns else []
        return {seed: mean_and_spread([column[seed] for column in columns])[0] for seed in seeds}


@dataclass(frozen=True)
class Block:
    """What one table shows.

    Attributes:
        title: what was trained on or evaluated, on which model and source.
        facts: what holds for all of it, one sentence each: fingerprints, items, what its runs note of their rows.
        tasks: the columns.
        rows: in the paper's order.
        single: whether each column comes from runs on that task alone.
    """

    title: str
    facts: list[str]
    tasks: list[str]
    rows: list[Row]
    single: bool

    @property
    def run(self) -> Run:
        """Any run of the block: they agree in source, model and prompt."""
        return self.rows[0].run

    def row_like(self, row: Row) -> Row | None:
        """The row with the same method and settings."""
        return next((own for own in self.rows if own.run.row == row.run.row), None)

    def comparable(self, other: "Block", task: str) -> bool:
        """Whether both have one source, model and prompt and, for this task, the same rows."""
        here, there = self.run, other.run
        same = (here.source, here.model, here.prompt) == (there.source, there.model, there.prompt)
        return same and task in self.tasks and task in other.tasks and self._rows_of(task) == other._rows_of(task)

    def _rows_of(self, task: str) -> object:
        runs = next(row.runs[task] for row in self.rows if row.runs.get(task))
        return next(iter(runs.values())).task_rows(task)


def make_blocks(found: Found) -> list[Block]:
    """Sort runs into blocks; a second run of one cell and seed goes to those left out."""
    together: dict[object, list[Run]] = {}
    for run in found.runs:
        together.setdefault(_key(run), []).append(run)
    families: dict[object, list[Run]] = {}
    for run in found.runs:
        families.setdefault(_family(run), []).append(run)
    blocks = []
    for runs in together.values():
        for part in _singles(runs) if runs[0].single else [runs]:
            blocks.append(_block(part, families[_family(part[0])], found))
    told = [told for alike in _by_title(blocks).values() for told in _told_apart(alike)]
    return sorted(told, key=lambda block: (block.run.trained_on is not None, block.single, block.title, block.facts))


def _by_title(blocks: Iterable[Block]) -> dict[str, list[Block]]:
    found: dict[str, list[Block]] = {}
    for block in blocks:
        found.setdefault(block.title, []).append(block)
    return found


def _told_apart(blocks: list[Block]) -> list[Block]:
    """Blocks of one title, each with what sets it apart behind it: the rows, the number of test items, or a number."""
    ordered = sorted(blocks, key=lambda block: block.facts)
    prints = [f"fingerprint {block.run.fingerprint}" for block in ordered]
    items = [
        f"{sum(block.run.scores[task].get('n') or 0 for task in block.run.scores)} test items" for block in ordered
    ]
    numbers = [f"no. {i}" for i in range(1, len(ordered) + 1)]
    apart = next(texts for texts in (prints, items, numbers) if len(set(texts)) == len(ordered))
    if len(ordered) == 1:
        return ordered
    return [replace(block, title=f"{block.title}, {text}") for block, text in zip(ordered, apart, strict=True)]


def _family(run: Run) -> object:
    """Runs whose rows are named together: the same method has the same name in the tables of one model and source."""
    return (run.source, run.model, run.prompt, run.trained_on is None)


def _key(run: Run) -> object:
    """What runs of one table agree in."""
    key = (run.source, run.model, run.prompt, run.single)
    if run.single:
        return (*key, *(str(run.config.get(name)) for name in ("data.limit", "evaluation.limit")))
    items = tuple((task, run.scores[task].get("n")) for task in sorted(run.scores))
    return (*key, run.data, run.trained_on, run.fingerprint, items)


def _singles(runs: list[Run]) -> list[list[Run]]:
    """Runs on single tasks, such that each task has one set of rows; where there are several, as many lists."""
    variants: dict[str, dict[object, list[Run]]] = {}
    for run in runs:
        (task,) = run.scores
        variants.setdefault(task, {}).setdefault((run.task_rows(task), run.fingerprint), []).append(run)
    lists: list[list[Run]] = [[] for _ in range(max(map(len, variants.values())))]
    for by_rows in variants.values():
        for i, key in enumerate(sorted(by_rows, key=str)):
            lists[i] += by_rows[key]
    return lists


def _block(runs: list[Run], family: list[Run], found: Found) -> Block:
    cells: dict[str, dict[str, dict[int, Run]]] = {}
    for run in sorted(runs, key=row_order):
        row = cells.setdefault(run.row, {})
        for task in run.scores:
            first = row.setdefault(task, {}).setdefault(run.seed, run)
            if first is not run:
                found.left_out.append((run.path, f"has the method, settings, data and seed of {first.path}"))
                break
    first = runs[0]
    tasks = in_order(task for run in runs for task in run.scores)
    what = "single tasks" if first.single else first.data
    if first.trained_on:
        what = f"{first.data}, trained on {first.trained_on}"
    differs = row_differences(family)
    rows = [Row(differs[key], by_task) for key, by_task in cells.items()]
    methods = sorted({run.method for run in runs})
    usual = [usual_note(method, [run for run in family if run.method == method]) for method in methods]
    facts = [*_facts(runs, tasks), *(note for note in usual if note)]
    return Block(f"{what}: {heading(first)}", facts, tasks, rows, first.single)


def _facts(runs: list[Run], tasks: list[str]) -> list[str]:
    """Fingerprints and items in words, what is usual in the rows, and what the runs note: test items trained on."""
    items = {task: next(run.scores[task].get("n") for run in runs if task in run.scores) for task in tasks}
    counts = ", ".join(f"{task} {count}" for task, count in items.items() if count)
    prints = sorted({f"{next(iter(run.scores))} {run.fingerprint}" if run.single else run.fingerprint for run in runs})
    rows = f"data fingerprint{'s' * (len(prints) > 1)}: {', '.join(prints)}; test items: {counts}"
    noted = [str(note) for run in runs for note in run.results["data"].get("notes") or []]
    return [rows, *dict.fromkeys(noted)]


# PART: Rows of one method that differ in one setting, or in dropout and rank: the lines and maps of figures.


RANK, DROPOUT, ALLOCATION = "method.rank", "method.dropout", "allocation.experts"
Sweep = tuple[str, str, list[tuple[float, Row]]]
Grid = tuple[str, list[float], list[float], dict[tuple[float, float], Row]]


def sweeps(block: Block) -> Iterator[Sweep]:
    """Method, key and rows by value, for each number (or allocation) in which at least two rows differ alone.

    Of several such families of one method (ranks, at each of some dropouts) the largest.
    """
    for key in sorted({key for row in block.rows for key in row.differs}):
        largest: dict[str, Sweep] = {}
        for rows in _alike(block, (key,)):
            numbers = range(len(rows)) if key == ALLOCATION else [_number(row, key) for row in rows]
            known = [(float(x), row) for x, row in zip(numbers, rows, strict=True) if x is not None]
            method = rows[0].run.method
            if len(known) > max(1, len(largest[method][2]) if method in largest else 0):
                largest[method] = (rows[0].called(key), key, sorted(known, key=lambda pair: pair[0]))
        yield from largest.values()


def grids(block: Block) -> Iterator[Grid]:
    """Method, ranks, dropouts and rows by (rank, dropout), where both have two values or more.

    Of several such families of one method the first.
    """
    done = set[str]()
    for rows in _alike(block, (RANK, DROPOUT)):
        cells = {}
        for row in rows:
            rank, dropout = _number(row, RANK), _number(row, DROPOUT)
            if rank is not None and dropout is not None:
                cells[rank, dropout] = row
        ranks, dropouts = sorted({rank for rank, _ in cells}), sorted({dropout for _, dropout in cells})
        if len(ranks) > 1 and len(dropouts) > 1 and rows[0].run.method not in done:
            done.add(rows[0].run.method)
            yield rows[0].called(RANK, DROPOUT), ranks, dropouts, cells


def _alike(block: Block, keys: tuple[str, ...]) -> list[list[Row]]:
    """Rows of one method that agree in all settings but these."""
    families: dict[str, list[Row]] = {}
    for row in block.rows:
        rest = {key: value for key, value in row.run.settings.items() if key not in keys}
        families.setdefault(json.dumps([row.run.method, rest], sort_keys=True), []).append(row)
    return [rows for rows in families.values() if len(rows) > 1]


def _number(row: Row, key: str) -> float | None:
    """The row's value of a setting, where it is a number."""
    value = row.run.settings.get(key)
    try:
        return None if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
