"""The figures of a block: only those for which there are runs."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.ticker import EngFormatter, LogLocator

from mosld.reporting.blocks import ALLOCATION, Block, Row, grids, sweeps
from mosld.reporting.run import shape_name
from mosld.reporting.significance import mean_and_spread
from mosld.reporting.style import Drawn, finish, grouped_bars, heat_map, legend, line_style, new_axes, style, write_in
from mosld.reporting.table import Table
from mosld.reporting.tables import AVERAGE

Plan = Callable[[], Drawn | None]
PER_CENT = "accuracy, %"
UNITS = {"method.rank": "rank r", "method.dropout": "dropout ratio", "training.learning_rate": "peak learning rate"}


def gain_figure(gains: Table) -> Drawn:
    """Figure 1: mixture minus single, a cluster for each task."""
    with style():
        title = gains.title
        figure, axes = new_axes(title, "task", "mixture minus single, points")
        shown = [i for i in range(1, len(gains.columns)) if any(row[i].value is not None for row in gains.rows)]
        bars = [(row[0].text, [row[i].value for i in shown]) for row in gains.rows]
        grouped_bars(axes, [gains.columns[i] for i in shown], bars)
        axes.axhline(0, color="black", linewidth=0.8)
        legend(axes, len(bars))
        return finish(figure, title)


def setting_figures(block: Block) -> list[Plan]:
    """Figures 5 and 7 and their like: accuracy by task over the one setting in which rows of a method differ, and
    its average over dropout and rank. MoSLD's come first.
    """
    plans: list[tuple[str, Plan]] = []
    for sweep in sweeps(block):
        drawer = _allocations if sweep[1] == ALLOCATION else _lines
        plans.append((sweep[2][0][1].run.method, partial(drawer, block, *sweep)))
    for grid in grids(block):
        plans.append((next(iter(grid[3].values())).run.method, partial(_grid, block, *grid)))
    return [plan for _, plan in sorted(plans, key=lambda pair: (not pair[0].startswith("mosld"), pair[0]))]


def _lines(block: Block, method: str, key: str, rows: Sequence[tuple[float, Row]]) -> Drawn:
    with style():
        name = key.rpartition(".")[2].replace("_", " ")
        title = f"{method} by {name}, {block.title}"
        figure, axes = new_axes(title, UNITS.get(key, name), PER_CENT)
        columns = [*block.tasks, *([AVERAGE] if len(block.tasks) > 1 else [])]
        for i, column in enumerate(columns):
            points = [(x, *found) for x, row in rows if (found := point(row, block, column))]
            look = line_style(i) | ({"linewidth": 2.6, "color": "black"} if column == AVERAGE else {})
            xs, ys, errors = [p[0] for p in points], [p[1] for p in points], [p[2] or 0 for p in points]
            axes.errorbar(xs, ys, yerr=errors, label=column, capsize=2, **look)
        values = [x for x, _ in rows]
        if min(values) > 0 and max(values) / min(values) >= 8:
            axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
        legend(axes, len(columns))
        return finish(figure, title)


def _allocations(block: Block, method: str, _: str, rows: Sequence[tuple[float, Row]]) -> Drawn:
    with style():
        title = f"{method} by allocation of experts, {block.title}"
        columns = [*block.tasks, *([AVERAGE] if len(block.tasks) > 1 else [])]
        figure, axes = new_axes(title, "task", PER_CENT)
        bars = [
            (
                shape_name(row.run.settings[ALLOCATION]),
                [found[0] if (found := point(row, block, column)) else None for column in columns],
            )
            for _, row in rows
        ]
        grouped_bars(axes, columns, bars)
        legend(axes, len(bars))
        return finish(figure, title)


def _grid(
    block: Block, method: str, ranks: list[float], dropouts: list[float], cells: dict[tuple[float, float], Row]
) -> Drawn | None:
    """Average accuracy over dropout and rank as a heat map, with the numbers in it."""
    points = {place: point(row, block, AVERAGE) for place, row in cells.items()}
    means = {place: found[0] for place, found in points.items() if found}
    if not means:
        return None
    with style():
        title = f"{method} by dropout and rank, {block.title}"
        figure, axes = new_axes(title, UNITS["method.rank"], UNITS["method.dropout"])
        values = [[means.get((rank, dropout), math.nan) for rank in ranks] for dropout in dropouts]
        low, high = min(means.values()), max(means.values())
        image = heat_map(axes, values, low, high if high > low else low + 1, origin="lower")
        texts = [["no run" if math.isnan(value) else f"{value:.1f}" for value in line] for line in values]
        write_in(axes, texts, image)
        axes.set_xticks(range(len(ranks)), [f"{rank:g}" for rank in ranks])
        axes.set_yticks(range(len(dropouts)), [f"{dropout:g}" for dropout in dropouts])
        figure.colorbar(image, label=f"average {PER_CENT}")
        return finish(figure, title)


def price_figure(block: Block) -> Drawn | None:
    """Average accuracy against trained weights: which method earns its parameters."""
    places = []
    for row in block.rows:
        found = point(row, block, AVERAGE)
        weights = row.run.results.get("parameters", {}).get("trainable")
        if found and weights:
            places.append((row.name, weights, *found))
    if len({weights for _, weights, *_ in places}) < 2:
        return None
    with style():
        title = f"accuracy against trained weights, {block.title}"
        figure, axes = new_axes(title, "trained weights", f"average {PER_CENT}")
        for i, (name, weights, mean, spread) in enumerate(places):
            axes.errorbar(
                [weights], [mean], yerr=[spread or 0], label=name, capsize=2, **line_style(i) | {"linestyle": ""}
            )
        axes.set_xscale("log")
        sizes = [weights for _, weights, *_ in places]
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(sizes) < 200 * min(sizes) else (1,)))
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.minorticks_off()
        legend(axes, len(places))
        return finish(figure, title)


def point(row: Row, block: Block, column: str) -> tuple[float, float | None] | None:
    """Mean accuracy over seeds and its spread, in per cent."""
    by_seed = row.averages(block.tasks) if column == AVERAGE else row.accuracies(column)
    return mean_and_spread([100 * value for value in by_seed.values()]) if by_seed else None
