"""How every figure looks: distinct in grey (markers, dashes, hatches), and the same bytes for the same data."""

import io
import re
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#1b5e8c", "#c8571b", "#3a7d44", "#7a3b8f", "#8c6d1b", "#b02a4c", "#4a5a68", "#1f9e9e", "#5c4033", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 1, 2)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "|||", "---", "+++", "**")
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd",
    "axes.axisbelow": True, "legend.frameon": False, "svg.hashsalt": "mosld", "hatch.linewidth": 0.6,
    "figure.constrained_layout.use": True,
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


@contextmanager
def style() -> Any:
    """Draw within this: the project's settings, and nothing else's."""
    with mpl.rc_context(STYLE):
        yield


def new_axes(title: str, x: str, y: str, width: float = 6.4, height: float = 3.8) -> tuple[Figure, Axes]:
    """A figure in inches with one pair of axes, both labelled."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=9, loc="left", wrap=True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def line_style(i: int) -> dict[str, Any]:
    """Colour, marker and dashes of the i-th line."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[i % len(DASHES)],
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


def legend(axes: Axes, entries: int) -> None:
    """The legend beside the axes, in as many columns as it needs."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, ncols=1 if entries <= 18 else 2)


def finish(figure: Figure, title: str) -> Drawn:
    """Write the figure as SVG and PNG; the same figure gives the same bytes."""
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": "mosld"})
    figure.savefig(png, format="png", dpi=150, metadata={"Software": "mosld"})
    return Drawn(title, svg.getvalue(), png.getvalue())
