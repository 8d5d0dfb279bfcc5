"""Figures that need more than one table's scores: MMLU by subject, amounts of OpenOrca, and losses by step."""

import re
from collections.abc import Iterator, Sequence

from matplotlib.ticker import MaxNLocator

from mosld.reporting.blocks import Block, Row
from mosld.reporting.compare import Outcomes
from mosld.reporting.figures import PER_CENT, point
from mosld.reporting.run import Run, heading
from mosld.reporting.style import COLOURS, HATCHES, Drawn, finish, legend, line_style, new_axes, style
from mosld.reporting.tables import AVERAGE

MOST_LINES = 24  # of one figure: more cannot be told apart
LOSS = re.compile(rb'^\{"step": (\d+),.*?"cross_entropy": ([-+.\deE]+)[,}]')


def subject_figure(block: Block, outcomes: Outcomes) -> Drawn | None:
    """Figure 4: accuracy on each subject of MMLU, a box for each method."""
    if "mmlu" not in block.tasks:
        return None
    boxes = [(row.name, _by_subject(row, outcomes)) for row in block.rows[:MOST_LINES]]
    boxes = [(name, values) for name, values in boxes if values]
    if not boxes:
        return None
    with style():
        title = f"accuracy by subject, {block.title}"
        figure, axes = new_axes(title, "method", PER_CENT)
        drawn = axes.boxplot([values for _, values in boxes], patch_artist=True, medianprops={"color": "black"})
        for i, patch in enumerate(drawn["boxes"]):
            patch.set(facecolor=COLOURS[i % len(COLOURS)], alpha=0.6, hatch=HATCHES[i % len(HATCHES)])
        axes.set_xticks(range(1, len(boxes) + 1), [name for name, _ in boxes], rotation=30, ha="right")
        axes.grid(False, axis="x")
        return finish(figure, title)


def _by_subject(row: Row, outcomes: Outcomes) -> list[float]:
    """Accuracy on each subject in per cent, over all seeds; an id begins with its subject."""
    right: dict[str, list[bool]] = {}
    for run in row.runs["mmlu"].values():
        for item, correct in (outcomes.of(run, "mmlu") or {}).items():
            right.setdefault(item.partition("/")[0], []).append(correct)
    return [100 * sum(found) / len(found) for _, found in sorted(right.items())]


def openorca_figures(blocks: Sequence[Block]) -> Iterator[tuple[int, Drawn]]:
    """Figure 6: average accuracy over the train rows of OpenOrca in the mixture; 0 is the mixture without them.

    Yields the index of the block that a figure goes with.
    """
    done = set[int]()
    for i, first in enumerate(blocks):
        if i in done or first.run.trained_on or not _openorca(first.run):
            continue
        alike = [j for j, block in enumerate(blocks) if _openorca(block.run) and _same_tests(first, block)]
        without = [j for j, block in enumerate(blocks) if not _openorca(block.run) and _same_tests(first, block)]
        series = _series([(blocks[j], _openorca(blocks[j].run)) for j in [*without[:1], *alike]])
        series = {name: points for name, points in series.items() if len({n for n, *_ in points}) > 1}
        if series:
            yield i, _amounts(first, series)
        done |= set(alike)


def _openorca(run: Run) -> int:
    """Train rows of OpenOrca."""
    return int(((run.results["data"].get("counts") or {}).get("openorca") or {}).get("train", 0))


def _same_tests(block: Block, other: Block) -> bool:
    plain = not other.single and not other.run.trained_on and other.tasks == block.tasks
    return plain and all(block.comparable(other, task) for task in block.tasks)


def _series(blocks: Sequence[tuple[Block, int]]) -> dict[str, list[tuple[int, float, float]]]:
    """By row name: amount, mean accuracy, spread."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for block, amount in sorted(blocks, key=lambda pair: pair[1]):
        for row in block.rows:
            here = point(row, block, AVERAGE)
            if here:
                found.setdefault(row.name, []).append((amount, here[0], here[1] or 0))
    return found


def _amounts(block: Block, series: dict[str, list[tuple[int, float, float]]]) -> Drawn:
    with style():
        title = f"accuracy by rows of OpenOrca, {heading(block.run)}"
        figure, axes = new_axes(title, "train rows of OpenOrca", f"average {PER_CENT}")
        for i, (name, points) in enumerate(series.items()):
            xs, ys, errors = zip(*points, strict=True)
            axes.errorbar(xs, ys, yerr=errors, label=name, capsize=2, **line_style(i))
        ticks = sorted({n for points in series.values() for n, *_ in points})
        axes.set_xscale("symlog", linthresh=min(n for n in ticks if n), linscale=0.4)  # doublings alike
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axes.minorticks_off()
        legend(axes, len(series))
        return finish(figure, title)


def loss_figure(block: Block) -> Drawn | None:
    """Cross entropy by optimiser step, a line for each row: the run of its first seed."""
    if len(block.rows) > MOST_LINES or block.single or block.run.trained_on:
        return None
    curves = [(row.name, _losses(row.run)) for row in block.rows]
    curves = [(name, curve) for name, curve in curves if len(curve) > 1]
    if not curves:
        return None
    with style():
        title = f"loss, {block.title}"
        figure, axes = new_axes(title, "optimiser step", "cross entropy, nats a token")
        for i, (name, curve) in enumerate(curves):
            steps, losses = zip(*curve, strict=True)
            axes.plot(steps, losses, label=name, markevery=max(1, len(steps) // 8), **line_style(i))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(axes, len(curves))
        return finish(figure, title)


def _losses(run: Run) -> list[tuple[int, float]]:
    """Step and loss out of metrics.jsonl, means over stretches so that there are at most 100 of them.

    Only the head of each line is looked at: the experts' load behind it is a hundred times as long.
    """
    try:
        lines = (run.path / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return []
    points = [(int(match[1]), float(match[2])) for line in lines if (match := LOSS.match(line[:400]))]
    stretch = -(-len(points) // 100)
    parts = [points[i : i + stretch] for i in range(0, len(points), max(1, stretch))]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]
