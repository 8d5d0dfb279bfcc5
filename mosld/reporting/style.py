"""How every figure of a report or an inspection looks and is saved.

Distinct in grey (markers, dashes, hatches, one hue that darkens), and the same bytes for the same data.
"""

import io
import re
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

from mosld.common.files import write_text

COLOURS = ("#1b5e8c", "#c8571b", "#3a7d44", "#7a3b8f", "#8c6d1b", "#b02a4c", "#4a5a68", "#1f9e9e", "#5c4033", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
FILLS = ("full", "none", "left")  # of the first ten markers, of the next ten, ...
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 1, 2)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "|||", "---", "+++", "**")
SHADES = "Blues"  # of a map: one hue that only grows darker, the same in grey
TITLE, SMALL = 9, 8  # points: titles as all text; legends and numbers in a map
BESIDE = 1.6  # inches of a figure's width that its legend may take
STYLE: dict[Any, Any] = {
    "font.size": TITLE, "axes.titlesize": TITLE, "figure.titlesize": TITLE, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd", "axes.axisbelow": True,
    "legend.frameon": False, "svg.hashsalt": "mosld", "hatch.linewidth": 0.6, "figure.constrained_layout.use": True,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A finished figure.

    Attributes:
        title: what it shows.
        svg: as SVG text.
        png: as PNG, 150 dots an inch.
    """

    title: str
    svg: str
    png: bytes

    @property
    def slug(self) -> str:
        """The title as the name of a file."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:100]

    def write(self, folder: Path, name: str) -> list[str]:
        """Write both files; returns their names."""
        write_text(folder / f"{name}.svg", self.svg)
        (folder / f"{name}.png").write_bytes(self.png)
        return [f"{name}.png", f"{name}.svg"]


@contextmanager
def style() -> Any:
    """Draw within this: the project's settings, and nothing else's."""
    with mpl.rc_context(STYLE):
        yield


def new_axes(title: str, x: str, y: str, width: float = 7.2, height: float = 3.8) -> tuple[Figure, Axes]:
    """A figure in inches with one pair of axes, both labelled."""
    figure = _figure(width, height)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", wrap=True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def new_panels(
    title: str, rows: int, columns: int, size: tuple[float, float], **shared: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of so many inches with rows of panels under one title."""
    figure = _figure(*size)
    figure.suptitle(title, x=0.01, ha="left", wrap=True)
    return figure, figure.subplots(rows, columns, squeeze=False, **shared).tolist()


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def line_style(i: int) -> dict[str, Any]:
    """Colour, marker and dashes of the i-th line, or of a point, which has no dashes."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[i % len(DASHES)],
        "fillstyle": FILLS[i // len(MARKERS) % len(FILLS)],
        "markersize": 5,
        "linewidth": 1.4,
    }


def grouped_bars(axes: Axes, groups: Sequence[str], bars: Sequence[tuple[str, Sequence[float | None]]]) -> None:
    """A cluster of bars for each group; None leaves a gap."""
    width = 0.8 / len(bars)
    for i, (label, values) in enumerate(bars):
        places = [g + (i - (len(bars) - 1) / 2) * width for g, value in enumerate(values) if value is not None]
        heights = [value for value in values if value is not None]
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "hatch": HATCHES[i % len(HATCHES)], "alpha": 0.75}
        axes.bar(places, heights, width, label=label, edgecolor="black", linewidth=0.6, **look)
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(False, axis="x")


def heat_map(axes: Axes, values: ArrayLike, least: float, most: float, **more: Any) -> AxesImage:
    """A map of numbers, darker where there is more; hatched where there is none (NaN)."""
    axes.patch.set(hatch="////", edgecolor="0.75", facecolor="white")
    axes.grid(False)
    look: dict[str, Any] = {"cmap": SHADES, "interpolation": "nearest", "aspect": "auto", **more}
    return axes.imshow(np.asarray(values, float), vmin=least, vmax=most, **look)


def write_in(axes: Axes, texts: Sequence[Sequence[str]], image: AxesImage) -> None:
    """A text in each cell of a map, white where the cell is dark."""
    values = image.get_array()
    assert values is not None
    shades = image.to_rgba(values)
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            dark = shades[row, column, 3] and shades[row, column, :3].mean() < 0.55
            axes.text(column, row, text, ha="center", va="center", fontsize=SMALL, color="white" if dark else "black")


def legend(axes: Axes, entries: int) -> None:
    """The legend beside the axes, in as many columns as it needs; the figure grows by what a long one takes."""
    columns = 1 if entries <= 18 else 2
    drawn = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=SMALL, ncols=columns)
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    taken = drawn.get_window_extent().width / figure.get_dpi()
    figure.set_size_inches(width + max(0.0, taken - BESIDE), height)


def legend_below(figure: Figure, entries: dict[str, Any]) -> None:
    """One legend for all panels, below them."""
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", fontsize=SMALL, ncols=2)


def finish(figure: Figure, title: str) -> Drawn:
    """Write the figure as SVG and PNG; the same figure gives the same bytes."""
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": "mosld"})
    figure.savefig(png, format="png", dpi=150, metadata={"Software": "mosld"})
    return Drawn(title, svg.getvalue(), png.getvalue())
