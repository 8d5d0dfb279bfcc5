"""How every figure of a report or an inspection looks and is saved.

Readable in grey (markers, dashes, hatches, one hue that darkens), and the same bytes for the same data.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

from mosld.common.files import write_text

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

Dashes = str | tuple[int, tuple[int, ...]]

COLOURS = ("#1b5e8c", "#c8571b", "#3a7d44", "#7a3b8f", "#8c6d1b", "#b02a4c", "#4a5a68", "#1f9e9e", "#5c4033", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
# Lines beyond the ten markers have the next fill style.
FILL_STYLES: tuple[Literal["full", "none", "left"], ...] = ("full", "none", "left")
DASHES: tuple[Dashes, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 1, 2)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "|||", "---", "+++", "**")
# One hue that only grows darker, also in grey.
HEAT_MAP_COLOURS = "Blues"
TEXT_POINTS = 9
SMALL_TEXT_POINTS = 8
PNG_DPI = 150
# A wider legend widens the figure.
LEGEND_INCHES = 1.6
LEGEND_COLUMN_ENTRIES = 18
SETTINGS: "dict[RcKeyType, object]" = {
    "font.size": TEXT_POINTS, "axes.titlesize": TEXT_POINTS, "figure.titlesize": TEXT_POINTS,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd",
    "axes.axisbelow": True, "legend.frameon": False, "svg.hashsalt": "mosld", "hatch.linewidth": 0.6,
    "figure.constrained_layout.use": True,
    # A name may hold a $.
    "text.parse_math": False,
}  # fmt: skip


class LineStyle(TypedDict):
    """Arguments of matplotlib's functions that draw lines."""

    color: str
    marker: str
    linestyle: Dashes
    fillstyle: Literal["full", "none", "left"]
    markersize: float
    linewidth: float


@dataclass(frozen=True)
class RenderedFigure:
    """A finished figure: what it shows, as SVG text, and as PNG with 150 dots an inch."""

    title: str
    svg: str
    png: bytes

    def write(self, folder: Path, name: str) -> list[str]:
        """Write both files; returns their names."""
        write_text(folder / f"{name}.svg", self.svg)
        (folder / f"{name}.png").write_bytes(self.png)
        return [f"{name}.png", f"{name}.svg"]


@contextmanager
def style() -> Iterator[None]:
    """Draw within this context, with the project's settings."""
    with mpl.rc_context(SETTINGS):
        yield


def new_axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """A figure with one pair of labelled axes."""
    figure = Figure(figsize=(7.2, 3.8))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", wrap=True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def new_panels(
    title: str,
    rows: int,
    columns: int,
    inches: tuple[float, float],
    sharex: bool = False,
    sharey: bool | Literal["row"] = False,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with rows of panels under one title."""
    figure = Figure(figsize=inches)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", wrap=True)
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).tolist()


def line_style(i: int) -> LineStyle:
    """The look of the i-th line of a figure."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[i % len(DASHES)],
        "fillstyle": FILL_STYLES[i // len(MARKERS) % len(FILL_STYLES)],
        "markersize": 5,
        "linewidth": 1.4,
    }


def grouped_bars(axes: Axes, groups: Sequence[str], bars: Sequence[tuple[str, Sequence[float | None]]]) -> None:
    """A cluster of bars for each group; None leaves a gap."""
    width = 0.8 / len(bars)
    for i, (label, values) in enumerate(bars):
        axes.bar(
            [g + (i - (len(bars) - 1) / 2) * width for g, value in enumerate(values) if value is not None],
            [value for value in values if value is not None],
            width,
            label=label,
            color=COLOURS[i % len(COLOURS)],
            hatch=HATCHES[i % len(HATCHES)],
            alpha=0.75,
            edgecolor="black",
            linewidth=0.6,
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(False, axis="x")


def heat_map(
    axes: Axes,
    values: ArrayLike,
    vmin: float,
    vmax: float,
    aspect: Literal["auto", "equal"] = "auto",
    origin: Literal["upper", "lower"] = "upper",
) -> AxesImage:
    """A map of numbers, darker for larger ones; hatched where there is none (NaN)."""
    axes.patch.set(hatch="////", edgecolor="0.75", facecolor="white")
    axes.grid(False)
    return axes.imshow(
        np.asarray(values, float), HEAT_MAP_COLOURS, vmin=vmin, vmax=vmax, interpolation="nearest", aspect=aspect,
        origin=origin,
    )  # fmt: skip


def annotate_cells(axes: Axes, texts: Sequence[Sequence[str]], image: AxesImage) -> None:
    """A text in each cell of a heat map, white where the cell is dark."""
    values = image.get_array()
    assert values is not None
    colours = image.to_rgba(values)
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            dark = colours[row, column, 3] and colours[row, column, :3].mean() < 0.55
            colour = "white" if dark else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=SMALL_TEXT_POINTS, color=colour)


def legend(axes: Axes, entries: int) -> None:
    """A legend beside the axes, in one or two columns; a wide one widens the figure."""
    columns = 1 if entries <= LEGEND_COLUMN_ENTRIES else 2
    box = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=SMALL_TEXT_POINTS, ncols=columns)
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    inches = box.get_window_extent().width / figure.get_dpi()
    figure.set_size_inches(width + max(0.0, inches - LEGEND_INCHES), height)


def legend_below(figure: Figure, entries: Mapping[str, Artist]) -> None:
    """One legend for all panels, below them."""
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", fontsize=SMALL_TEXT_POINTS, ncols=2
    )


def render(figure: Figure, title: str) -> RenderedFigure:
    """The figure as SVG and PNG; the same figure gives the same bytes."""
    svg, png = io.StringIO(), io.BytesIO()
    figure.set_dpi(PNG_DPI)
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": "mosld"})
    # The layout that the first image found stands; savefig would find it again and pass over all artists twice.
    figure.set_layout_engine("none")
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": "mosld"})
    return RenderedFigure(title, svg.getvalue(), png.getvalue())
