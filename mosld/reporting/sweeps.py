"""Rows of one method that differ in one setting, or in dropout and rank: the lines and maps of figures."""

import json
from collections.abc import Iterator

from mosld.reporting.blocks import Block, Row

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
