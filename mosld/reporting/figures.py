"""The figures of a block: those for which it has runs."""

import math
from collections.abc import Callable
from functools import partial

from matplotlib.ticker import EngFormatter, LogLocator

from mosld.reporting.blocks import ALLOCATION, Block, Grid, Row, Sweep, grids, sweeps
from mosld.reporting.run import allocation_name
from mosld.reporting.significance import mean_and_spread
from mosld.reporting.style import (
    RenderedFigure,
    annotate_cells,
    grouped_bars,
    heat_map,
    legend,
    line_style,
    new_axes,
    render,
    style,
)
from mosld.reporting.table import Table
from mosld.reporting.tables import AVERAGE, accuracies_of, columns_of

FigurePlan = Callable[[], RenderedFigure | None]
"""Draws a figure when it is called; None if there are no runs for it."""

PER_CENT = "accuracy, %"
AXIS_LABELS = {
    "method.rank": "rank r", "method.dropout": "dropout ratio", "training.learning_rate": "peak learning rate",
}  # fmt: skip


def gain_figure(gains: Table) -> RenderedFigure:
    """The paper's figure 1: mixture minus single, a cluster of bars for each task."""
    with style():
        figure, axes = new_axes(gains.title, "task", "mixture minus single, points")
        shown = [i for i in range(1, len(gains.columns)) if any(row[i].value is not None for row in gains.rows)]
        bars = [(row[0].text, [row[i].value for i in shown]) for row in gains.rows]
        grouped_bars(axes, [gains.columns[i] for i in shown], bars)
        axes.axhline(0, color="black", linewidth=0.8)
        legend(axes, len(bars))
        return render(figure, gains.title)


def setting_figures(block: Block) -> list[FigurePlan]:
    """Accuracy over one setting in which rows of a method differ (the paper's figures 5 and 7), or dropout and rank.

    Those of MoSLD come first.
    """
    plans: list[tuple[str, FigurePlan]] = []
    for sweep in sweeps(block):
        draw = _allocation_figure if sweep.key == ALLOCATION else _sweep_figure
        plans.append((sweep.name, partial(draw, block, sweep)))
    plans += [(grid.name, partial(_grid_figure, block, grid)) for grid in grids(block)]
    return [plan for _, plan in sorted(plans, key=lambda pair: (not pair[0].startswith("mosld"), pair[0].split()[0]))]


def _sweep_figure(block: Block, sweep: Sweep) -> RenderedFigure:
    """A line for each task, and one for their average."""
    with style():
        name = sweep.key.rpartition(".")[2].replace("_", " ")
        title = f"{sweep.name} by {name}, {block.title}"
        figure, axes = new_axes(title, AXIS_LABELS.get(sweep.key, name), PER_CENT)
        columns = columns_of(block)
        for i, column in enumerate(columns):
            points = [(x, *point) for x, row in sweep.rows if (point := accuracy_point(row, block, column))]
            look = line_style(i)
            if column == AVERAGE:
                look.update({"linewidth": 2.6, "color": "black"})
            xs, ys, errors = [p[0] for p in points], [p[1] for p in points], [p[2] or 0 for p in points]
            axes.errorbar(xs, ys, yerr=errors, label=column, capsize=2, **look)
        values = [x for x, _ in sweep.rows]
        if min(values) > 0 and max(values) / min(values) >= 8:
            axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
        legend(axes, len(columns))
        return render(figure, title)


def _allocation_figure(block: Block, sweep: Sweep) -> RenderedFigure:
    """A cluster of bars for each task, a bar for each allocation."""
    with style():
        title = f"{sweep.name} by allocation of experts, {block.title}"
        columns = columns_of(block)
        figure, axes = new_axes(title, "task", PER_CENT)
        bars = []
        for _, row in sweep.rows:
            points = [accuracy_point(row, block, column) for column in columns]
            bars.append(
                (allocation_name(row.run.settings[ALLOCATION]), [point[0] if point else None for point in points])
            )
        grouped_bars(axes, columns, bars)
        legend(axes, len(bars))
        return render(figure, title)


def _grid_figure(block: Block, grid: Grid) -> RenderedFigure | None:
    """Average accuracy over dropout and rank as a heat map with numbers."""
    points = {cell: accuracy_point(row, block, AVERAGE) for cell, row in grid.rows.items()}
    means = {cell: point[0] for cell, point in points.items() if point}
    if not means:
        return None
    with style():
        title = f"{grid.name} by dropout and rank, {block.title}"
        figure, axes = new_axes(title, AXIS_LABELS["method.rank"], AXIS_LABELS["method.dropout"])
        values = [[means.get((rank, dropout), math.nan) for rank in grid.ranks] for dropout in grid.dropouts]
        low, high = min(means.values()), max(means.values())
        image = heat_map(axes, values, low, high if high > low else low + 1, origin="lower")
        texts = [["no run" if math.isnan(value) else f"{value:.1f}" for value in line] for line in values]
        annotate_cells(axes, texts, image)
        axes.set_xticks(range(len(grid.ranks)), [f"{rank:g}" for rank in grid.ranks])
        axes.set_yticks(range(len(grid.dropouts)), [f"{dropout:g}" for dropout in grid.dropouts])
        figure.colorbar(image, label=f"average {PER_CENT}")
        return render(figure, title)


def weights_figure(block: Block) -> RenderedFigure | None:
    """Average accuracy against the number of trained weights."""
    points = []
    for row in block.rows:
        point, weights = accuracy_point(row, block, AVERAGE), row.run.trained_weights
        if point and weights:
            points.append((row.name, weights, *point))
    sizes = [weights for _, weights, *_ in points]
    if len(set(sizes)) < 2:
        return None
    with style():
        title = f"accuracy against trained weights, {block.title}"
        figure, axes = new_axes(title, "trained weights", f"average {PER_CENT}")
        for i, (name, weights, mean, spread) in enumerate(points):
            look = line_style(i)
            look["linestyle"] = ""
            axes.errorbar([weights], [mean], yerr=[spread or 0], label=name, capsize=2, **look)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(sizes) < 200 * min(sizes) else (1,)))
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.minorticks_off()
        legend(axes, len(points))
        return render(figure, title)


def accuracy_point(row: Row, block: Block, column: str) -> tuple[float, float | None] | None:
    """Mean accuracy over seeds and its standard deviation, in per cent; None if there is no run."""
    by_seed = accuracies_of(row, block.tasks, column)
    return mean_and_spread([100 * value for value in by_seed.values()]) if by_seed else None
