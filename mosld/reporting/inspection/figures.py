"""The figures of an inspection, each as PNG and SVG. Lines differ by marker and dash as well, so grey is enough."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mosld.reporting.inspection.inspected import Array
from mosld.reporting.inspection.lines import Line, similarity_lines, specialisation_lines, subspace_lines
from mosld.reporting.inspection.similarity import MEASURES

COLOURS = ("#000000", "#b2182b", "#2166ac", "#e08214", "#1b7837", "#9970ab", "#80cdc1", "#878787")
MARKERS = "os^DvPX<"
DASHES = ("-", "--", "-.", (0, (8, 2)), (0, (3, 1)), (0, (8, 2, 2, 2, 2, 2)), (0, (8, 5)))  # dotted is random
STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "mosld"}
DARKER = "Blues"  # one hue that only grows darker: the same in grey


def draw(tree: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw what these numbers have; returns the names of the files."""
    names = []
    with matplotlib.rc_context(STYLE):
        for name, figure in _figures(tree):
            for kind in ("png", "svg"):
                figure.savefig(folder / f"{name}.{kind}", dpi=150, metadata={"Date": None} if kind == "svg" else None)
                names.append(f"{name}.{kind}")
    return names


def _figures(tree: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    similar = {text: similarity_lines(tree, measure) for measure, text in MEASURES.items()}
    if any(similar.values()):
        yield "similarity", _line_figure("Experts of a layer, mean over pairs", similar, "similarity")
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
    figure = Figure(figsize=(max(5.0, 3.4 * len(panels)), 4.2), layout="constrained")
    figure.suptitle(title)
    runs = list(dict.fromkeys(line.run for lines in panels.values() for line in lines))
    kinds = list(dict.fromkeys(line.kind for lines in panels.values() for line in lines))
    by_kind, found = list(panels) == kinds, dict[str, Any]()
    every = [value for lines in panels.values() for x in lines for value in (*x.values.values(), *x.random.values())]
    for axes, (name, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for line in lines:
            own, dash = runs.index(line.run), 0 if by_kind else kinds.index(line.kind)
            style: dict[str, Any] = {"color": COLOURS[own % len(COLOURS)], "linewidth": 1.2}
            label = line.run if by_kind else f"{line.run}, {line.kind}"
            (found[label],) = axes.plot(
                *zip(*sorted(line.values.items()), strict=True),
                **style,
                marker=MARKERS[own % len(MARKERS)],
                linestyle=DASHES[dash % len(DASHES)],
                markersize=4,
                markerfacecolor=style["color"] if dash % 2 == 0 else "white",
            )
            if line.random:
                points = zip(*sorted(line.random.items()), strict=True)
                axes.plot(*points, color=style["color"], linewidth=0.8, linestyle=":")
        low, high = min(0, *every), max(0.01, *every)
        axes.set(title=name, xlabel="layer", ylim=(low - 0.03 * (high - low), high + 0.05 * (high - low)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[0].set_ylabel(unit)
    if any(line.random for lines in panels.values() for line in lines):
        found["dotted: random matrices of the same shapes"] = Line2D([], [], color="0.4", linewidth=0.8, linestyle=":")
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _use_figure(run: Mapping[str, Any]) -> Figure:
    """A column of panels for each task, a row for each kind of module; in each, layers x experts."""
    tasks, modules = list(run["use"]), next(iter(run["use"].values()))
    kinds: dict[str, dict[int, str]] = {}
    for module, place in run["specialisation"].items():
        kinds.setdefault(place["module"], {})[place["layer"]] = module
    depth, width = max(map(len, kinds.values())), max(map(len, modules.values()))
    size = (1.5 + len(tasks) * max(1.4, 0.22 * width), 1.4 + len(kinds) * max(1.6, 0.11 * depth))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"{run['name']}: expert use by task (data {run['use_of']})")
    most = max(max(part) * len(part) for own in run["use"].values() for part in own.values())
    panels = figure.subplots(len(kinds), len(tasks), squeeze=False, sharex=True, sharey="row")
    for row, (kind, layers) in zip(panels, kinds.items(), strict=True):
        for axes, task in zip(row, tasks, strict=True):
            image = _heat(axes, [run["use"][task][layers[layer]] for layer in sorted(layers)], width, most)
            axes.set_yticks(*_ticks(sorted(layers)))
            if kind == next(iter(kinds)):
                axes.set_title(task)
        row[0].set_ylabel("layer" if kind == "layer" else f"{kind}, layer")
    for axes in panels[-1]:
        _name_experts(axes, run["experts"], width)
    figure.colorbar(image, ax=panels, label="use (1: even)", aspect=40)
    return figure


def _heat(axes: Any, parts: Sequence[Sequence[float]], width: int, most: float) -> Any:
    """Layers x experts, 1 where all experts of the layer are used alike; hatched where a layer has no such expert."""
    found = np.full((len(parts), width), np.nan)
    for row, part in zip(found, parts, strict=True):
        row[: len(part)] = np.array(part) * len(part)
    axes.patch.set(hatch="////", edgecolor="0.75", facecolor="white")
    return axes.imshow(found, cmap=DARKER, vmin=0, vmax=most, aspect="auto", interpolation="nearest")


def _name_experts(axes: Any, names: Sequence[str] | None, width: int) -> None:
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
    figure = Figure(figsize=(1.2 + size * len(runs), size + 1.1), layout="constrained")
    figure.suptitle("How far two tasks' expert use differs: Jensen-Shannon divergence, bits")
    most = max(np.max(run["divergence"]["bits"]) for run in runs) or 1.0
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for axes, run in zip(panels, runs, strict=True):
        names, bits = run["divergence"]["tasks"], np.array(run["divergence"]["bits"])
        image = axes.imshow(bits, cmap=DARKER, vmin=0, vmax=most)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(run["name"])
        _write_values(axes, bits, most)
    figure.colorbar(image, ax=panels, label="bits (0: alike)")
    return figure


def _write_values(axes: Any, values: Array, most: float) -> None:
    digits = 3 if most >= 0.01 else 4
    for (row, column), value in np.ndenumerate(values):
        if row != column:
            text = f"{value:.{digits}f}".removeprefix("0")
            colour = "white" if value > 0.6 * most else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
