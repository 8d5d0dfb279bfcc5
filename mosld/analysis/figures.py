"""The figures of an inspection: lines over the layers, maps of layers and experts, maps of tasks."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mosld.analysis.metrics import MEASURES
from mosld.analysis.table import Line, similarity_lines, specialisation_lines, subspace_lines
from mosld.reporting.style import COLOURS, MARKERS, finish, heat_map, legend_below, new_panels, style, write_in

# A run has a colour and a marker, a kind of module its dashes; none is dotted, which is what random matrices are.
DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (8, 2)), (0, (3, 1)), (0, (8, 2, 2, 2, 2, 2)), (0, (8, 5)))


def draw(tree: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw what these numbers have; returns the names of the files."""
    with style():
        return [file for name, figure in _figures(tree) for file in finish(figure, name).write(folder, name)]


def _figures(tree: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    similar = {text: similarity_lines(tree, measure) for measure, text in MEASURES.items()}
    if any(similar.values()):
        yield "similarity", _line_figure("Experts of a layer, mean over pairs", similar, "similarity (1: alike)")
    for measure, what in (("learned", "training added to A"), ("overlap", "A reads, as saved")):
        pairs = subspace_lines(tree, measure)
        if pairs:
            kinds = dict.fromkeys(line.kind for line in pairs)
            panels = {kind: [line for line in pairs if line.kind == kind] for kind in kinds}
            title = f"Overlap of two runs in what {what} (1: the same subspace)"
            yield f"subspaces_{measure}", _line_figure(title, panels, "mean squared cosine of principal angles")
    special = specialisation_lines(tree)
    if special:
        title = "Specialisation: what the expert says of the task"
        yield "specialisation", _line_figure(title, {"": special}, "mutual information, share of the largest possible")
    for number, run in enumerate(tree["runs"], 1):
        if any(len(part) > 1 for own in run["use"].values() for part in own.values()):
            yield f"use-{number}" if len(tree["runs"]) > 1 else "use", _use_figure(run)
    compared = [run for run in tree["runs"] if run["divergence"]]
    if compared:
        yield "tasks", _task_figure(compared)


def _line_figure(title: str, panels: Mapping[str, Sequence[Line]], unit: str) -> Figure:
    """A panel for each entry, a line for each run and kind of module, dotted what random matrices give."""
    size = (max(5.0, 3.4 * len(panels)), 4.2)
    figure, (row,) = new_panels(title, 1, len(panels), size, sharey=len(panels) < 4)
    runs = list(dict.fromkeys(line.run for lines in panels.values() for line in lines))
    kinds = list(dict.fromkeys(line.kind for lines in panels.values() for line in lines))
    by_kind, found = list(panels) == kinds, dict[str, Any]()
    every = [value for lines in panels.values() for x in lines for value in (*x.values.values(), *x.random.values())]
    for axes, (name, lines) in zip(row, panels.items(), strict=True):
        for line in lines:
            label = line.run if by_kind else f"{line.run}, {line.kind}"
            found[label] = _line(axes, line, runs.index(line.run), 0 if by_kind else kinds.index(line.kind))
        low, high = min(0, *every), max(0.01, *every)
        axes.set(title=name, xlabel="layer", ylim=(low - 0.03 * (high - low), high + 0.05 * (high - low)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    row[0].set_ylabel(unit)
    if any(line.random for lines in panels.values() for line in lines):
        found["dotted: random matrices of the same shapes"] = Line2D([], [], color="0.4", linewidth=0.8, linestyle=":")
    legend_below(figure, found)
    return figure


def _line(axes: Axes, line: Line, run: int, dash: int) -> Line2D:
    colour = COLOURS[run % len(COLOURS)]
    (drawn,) = axes.plot(
        *zip(*sorted(line.values.items()), strict=True),
        color=colour,
        linewidth=1.2,
        marker=MARKERS[run % len(MARKERS)],
        linestyle=DASHES[dash % len(DASHES)],
        markersize=4,
        markerfacecolor=colour if dash % 2 == 0 else "white",
    )
    if line.random:
        axes.plot(*zip(*sorted(line.random.items()), strict=True), color=colour, linewidth=0.8, linestyle=":")
    return drawn


def _use_figure(run: Mapping[str, Any]) -> Figure:
    """A column of panels for each task, a row for each kind of module; in each, layers x experts."""
    tasks, modules = list(run["use"]), next(iter(run["use"].values()))
    kinds: dict[str, dict[int, str]] = {}
    for module, place in run["specialisation"].items():
        kinds.setdefault(place["module"], {})[place["layer"]] = module
    depth, width = max(map(len, kinds.values())), max(map(len, modules.values()))
    size = (1.5 + len(tasks) * max(1.4, 0.22 * width), 1.4 + len(kinds) * max(1.6, 0.11 * depth))
    title = f"{run['name']}: expert use by task (data {run['use_of']})"
    most = max(max(part) * len(part) for own in run["use"].values() for part in own.values())
    figure, panels = new_panels(title, len(kinds), len(tasks), size, sharex=True, sharey="row")
    for row, (kind, layers) in zip(panels, kinds.items(), strict=True):
        for axes, task in zip(row, tasks, strict=True):
            image = _heat(axes, [run["use"][task][layers[layer]] for layer in sorted(layers)], width, most)
            axes.set_yticks(*_ticks(sorted(layers)))
            if kind == next(iter(kinds)):
                axes.set_title(task)
        row[0].set_ylabel("layer" if kind == "layer" else f"{kind}, layer")
    for axes in panels[-1]:
        _name_experts(axes, run["experts"], width)
    _scale(figure, image, panels, "use, times the number of experts (1: even)", aspect=40)
    return figure


def _heat(axes: Axes, parts: Sequence[Sequence[float]], width: int, most: float) -> AxesImage:
    """Layers x experts, 1 where all experts of the layer are used alike; hatched where a layer has no such expert."""
    found = np.full((len(parts), width), np.nan)
    for row, part in zip(found, parts, strict=True):
        row[: len(part)] = np.array(part) * len(part)
    return heat_map(axes, found, 0, most)


def _scale(figure: Figure, image: AxesImage, panels: list[list[Axes]], unit: str, **more: Any) -> None:
    figure.colorbar(image, ax=[axes for row in panels for axes in row], label=unit, **more)


def _name_experts(axes: Axes, names: Sequence[str] | None, width: int) -> None:
    if names:
        axes.set_xticks(range(width), names, rotation=90)
    else:
        axes.set_xticks(*_ticks(list(range(width))))
    axes.set_xlabel("expert")


def _ticks(labels: Sequence[int], most: int = 8) -> tuple[list[int], list[str]]:
    """Places and texts of at most so many ticks."""
    every = -(-len(labels) // most)
    places = list(range(0, len(labels), every))
    return places, [str(labels[place]) for place in places]


def _task_figure(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel for each run, tasks x tasks, on one scale."""
    tasks = max(len(run["divergence"]["tasks"]) for run in runs)
    size = 1.2 + 0.45 * tasks
    title = "How far two tasks' expert use differs: Jensen-Shannon divergence"
    figure, panels = new_panels(title, 1, len(runs), (1.2 + size * len(runs), size + 1.1))
    most = max(np.max(run["divergence"]["bits"]) for run in runs) or 1.0
    digits = 3 if most >= 0.01 else 4
    for axes, run in zip(panels[0], runs, strict=True):
        names, bits = run["divergence"]["tasks"], np.array(run["divergence"]["bits"])
        image = heat_map(axes, bits, 0, most, aspect="equal")
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(run["name"])
        values = [[f"{value:.{digits}f}".removeprefix("0") for value in line] for line in bits]
        write_in(axes, [["" if x == y else text for x, text in enumerate(row)] for y, row in enumerate(values)], image)
    _scale(figure, image, panels, "bits (0: alike)")
    return figure
