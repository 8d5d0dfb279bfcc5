"""The figures of an inspection: series over the layers, expert usage by layer, divergence of tasks."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mosld.analysis.analyze import Inspection, RunNumbers
from mosld.analysis.metrics import MEASURES
from mosld.analysis.table import OverlapMeasure, Series, similarity_series, specialisation_series, subspace_series
from mosld.reporting.style import (
    COLOURS,
    MARKERS,
    Dashes,
    annotate_cells,
    heat_map,
    legend_below,
    new_panels,
    render,
    style,
)

# A run has a colour and a marker, a kind of module its dashes; none is dotted, which stands for random matrices.
DASHES: tuple[Dashes, ...] = ("-", "--", "-.", (0, (8, 2)), (0, (3, 1)), (0, (8, 2, 2, 2, 2, 2)), (0, (8, 5)))
MAX_TICKS = 8
OVERLAP_TITLES: dict[OverlapMeasure, str] = {"learned": "training added to A", "overlap": "A reads, as saved"}


def draw_figures(tree: Inspection, folder: Path) -> list[str]:
    """Draw the figures for which there are numbers; returns the names of the files."""
    with style():
        return [file for name, figure in _figures(tree) for file in render(figure, name).write(folder, name)]


def _figures(tree: Inspection) -> Iterator[tuple[str, Figure]]:
    similarity = {text: similarity_series(tree, measure) for measure, text in MEASURES.items()}
    if any(similarity.values()):
        yield "similarity", _series_figure("Experts of a layer, mean over pairs", similarity, "similarity (1: alike)")
    for measure, what in OVERLAP_TITLES.items():
        overlap = subspace_series(tree, measure)
        if overlap:
            modules = dict.fromkeys(series.module for series in overlap)
            panels = {module: [series for series in overlap if series.module == module] for module in modules}
            title = f"Overlap of two runs in what {what} (1: the same subspace)"
            yield f"subspaces_{measure}", _series_figure(title, panels, "mean squared cosine of principal angles")
    specialisation = specialisation_series(tree)
    if specialisation:
        title = "Specialisation: what the expert says of the task"
        unit = "mutual information, share of the largest possible"
        yield "specialisation", _series_figure(title, {"": specialisation}, unit)
    for number, run in enumerate(tree["runs"], 1):
        if any(len(shares) > 1 for modules in run["use"].values() for shares in modules.values()):
            yield f"use-{number}" if len(tree["runs"]) > 1 else "use", _usage_figure(run)
    compared = [run for run in tree["runs"] if run["divergence"]]
    if compared:
        yield "tasks", _divergence_figure(compared)


def _series_figure(title: str, panels: Mapping[str, Sequence[Series]], unit: str) -> Figure:
    """A panel for each entry, a line for each run and kind of module, dotted for random matrices."""
    inches = (max(5.0, 3.4 * len(panels)), 4.2)
    figure, (row,) = new_panels(title, 1, len(panels), inches, sharey=len(panels) < 4)
    every = [series for panel in panels.values() for series in panel]
    runs = list(dict.fromkeys(series.run for series in every))
    modules = list(dict.fromkeys(series.module for series in every))
    by_module = list(panels) == modules
    values = [value for series in every for value in (*series.values.values(), *series.random.values())]
    low, high = min(0, *values), max(0.01, *values)
    lines: dict[str, Line2D] = {}
    for axes, (name, panel) in zip(row, panels.items(), strict=True):
        for series in panel:
            label = series.run if by_module else f"{series.run}, {series.module}"
            module = 0 if by_module else modules.index(series.module)
            lines[label] = _plot(axes, series, runs.index(series.run), module)
        axes.set(title=name, xlabel="layer", ylim=(low - 0.03 * (high - low), high + 0.05 * (high - low)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    row[0].set_ylabel(unit)
    if any(series.random for series in every):
        label = "dotted: random matrices of the same shapes"
        lines[label] = Line2D([], [], color="0.4", linewidth=0.8, linestyle=":")
    legend_below(figure, lines)
    return figure


def _plot(axes: Axes, series: Series, run: int, module: int) -> Line2D:
    colour = COLOURS[run % len(COLOURS)]
    layers, values = zip(*sorted(series.values.items()), strict=True)
    (line,) = axes.plot(
        layers,
        values,
        color=colour,
        linewidth=1.2,
        marker=MARKERS[run % len(MARKERS)],
        linestyle=DASHES[module % len(DASHES)],
        markersize=4,
        markerfacecolor=colour if module % 2 == 0 else "white",
    )
    if series.random:
        layers, values = zip(*sorted(series.random.items()), strict=True)
        axes.plot(layers, values, color=colour, linewidth=0.8, linestyle=":")
    return line


def _usage_figure(run: RunNumbers) -> Figure:
    """A column of panels for each task, a row for each kind of module; in each, layers x experts."""
    tasks = list(run["use"])
    width = max(len(shares) for shares in run["use"][tasks[0]].values())
    # The names of the modules with routers, by kind of module and layer.
    routers: dict[str, dict[int, str]] = {}
    for key, router in run["specialisation"].items():
        routers.setdefault(router["module"], {})[router["layer"]] = key
    depth = max(map(len, routers.values()))
    inches = (1.5 + len(tasks) * max(1.4, 0.22 * width), 1.4 + len(routers) * max(1.6, 0.11 * depth))
    title = f"{run['name']}: expert use by task (data {run['use_of']})"
    figure, panels = new_panels(title, len(routers), len(tasks), inches, sharex=True, sharey="row")
    largest = max(max(shares) * len(shares) for modules in run["use"].values() for shares in modules.values())
    for row, (module, keys) in zip(panels, routers.items(), strict=True):
        for axes, task in zip(row, tasks, strict=True):
            # Times the number of experts: 1 is even usage. Layers with fewer experts are hatched behind their last.
            usage = np.full((len(keys), width), np.nan)
            for line, layer in zip(usage, sorted(keys), strict=True):
                shares = run["use"][task][keys[layer]]
                line[: len(shares)] = np.array(shares) * len(shares)
            image = heat_map(axes, usage, 0, largest)
            axes.set_yticks(*_ticks(sorted(keys)))
            if row is panels[0]:
                axes.set_title(task)
        row[0].set_ylabel("layer" if module == "layer" else f"{module}, layer")
    for axes in panels[-1]:
        if run["experts"]:
            axes.set_xticks(range(width), run["experts"], rotation=90)
        else:
            axes.set_xticks(*_ticks(range(width)))
        axes.set_xlabel("expert")
    every_panel = [axes for row in panels for axes in row]
    figure.colorbar(image, ax=every_panel, label="use, times the number of experts (1: even)", aspect=40)
    return figure


def _ticks(labels: Sequence[int]) -> tuple[list[int], list[str]]:
    """Positions and texts of at most `MAX_TICKS` ticks."""
    positions = list(range(0, len(labels), -(-len(labels) // MAX_TICKS)))
    return positions, [str(labels[position]) for position in positions]


def _divergence_figure(runs: Sequence[RunNumbers]) -> Figure:
    """A panel for each run, tasks x tasks, on one scale."""
    by_run = {run["name"]: run["divergence"] for run in runs if run["divergence"]}
    side = 1.2 + 0.45 * max(len(divergence["tasks"]) for divergence in by_run.values())
    title = "How far two tasks' expert use differs: Jensen-Shannon divergence"
    figure, (row,) = new_panels(title, 1, len(by_run), (1.2 + side * len(by_run), side + 1.1))
    largest = max(np.max(divergence["bits"]) for divergence in by_run.values()) or 1.0
    digits = 3 if largest >= 0.01 else 4
    for axes, (name, divergence) in zip(row, by_run.items(), strict=True):
        tasks, bits = divergence["tasks"], divergence["bits"]
        image = heat_map(axes, bits, 0, largest, aspect="equal")
        axes.set_xticks(range(len(tasks)), tasks, rotation=90)
        axes.set_yticks(range(len(tasks)), tasks)
        axes.set_title(name)
        texts = [[f"{value:.{digits}f}".removeprefix("0") for value in line] for line in bits]
        annotate_cells(axes, [["" if x == y else t for x, t in enumerate(line)] for y, line in enumerate(texts)], image)
    figure.colorbar(image, ax=row, label="bits (0: alike)")
    return figure
