"""Figures that need more than a table of scores: MMLU by subject, rows of OpenOrca, and losses by step."""

import re
from collections.abc import Iterator, Sequence

from matplotlib.ticker import MaxNLocator

from mosld.common.seal import seal_of
from mosld.reporting.blocks import Block, Row
from mosld.reporting.compare import Predictions
from mosld.reporting.figures import PER_CENT, accuracy_point
from mosld.reporting.run import Run, heading
from mosld.reporting.style import COLOURS, HATCHES, RenderedFigure, legend, line_style, new_axes, render, style
from mosld.reporting.tables import AVERAGE

# More lines of one figure cannot be told apart.
MAX_LINES = 24
MAX_LOSS_POINTS = 100
LOSS = re.compile(rb'^\{"step": (\d+),.*?"cross_entropy": ([-+.\deE]+)[,}]')
VALIDATION_LOSS = re.compile(rb'^\{"step": (\d+),.*?"validation_loss_average": ([-+.\deE]+)[,}]')
# The experts' load behind the head of a line of metrics.jsonl is a hundred times as long.
LINE_HEAD_BYTES = 400


def subject_figure(block: Block, predictions: Predictions) -> RenderedFigure | None:
    """The paper's figure 4: accuracy on each subject of MMLU, a box for each method."""
    if "mmlu" not in block.tasks:
        return None
    boxes = [(row.name, _accuracy_by_subject(row, predictions)) for row in block.rows[:MAX_LINES]]
    boxes = [(name, values) for name, values in boxes if values]
    if not boxes:
        return None
    with style():
        title = f"accuracy by subject, {block.title}"
        figure, axes = new_axes(title, "method", PER_CENT)
        artists = axes.boxplot([values for _, values in boxes], patch_artist=True, medianprops={"color": "black"})
        for i, patch in enumerate(artists["boxes"]):
            patch.set(facecolor=COLOURS[i % len(COLOURS)], alpha=0.6, hatch=HATCHES[i % len(HATCHES)])
        axes.set_xticks(range(1, len(boxes) + 1), [name for name, _ in boxes], rotation=30, ha="right")
        axes.grid(False, axis="x")
        return render(figure, title)


def _accuracy_by_subject(row: Row, predictions: Predictions) -> list[float]:
    """Accuracy on each subject in per cent, over all seeds; an item's id begins with its subject."""
    by_subject: dict[str, list[bool]] = {}
    for run in row.task_runs("mmlu"):
        for item, correct in (predictions.correct(run, "mmlu") or {}).items():
            by_subject.setdefault(item.partition("/")[0], []).append(correct)
    return [100 * sum(correct) / len(correct) for _, correct in sorted(by_subject.items())]


def openorca_figures(blocks: Sequence[Block]) -> Iterator[tuple[int, RenderedFigure]]:
    """The paper's figure 6: average accuracy over the train rows of OpenOrca in the mixture; 0 is the mixture without.

    Yields figures, each with the index of its block.
    """
    drawn: set[int] = set()
    for i, block in enumerate(blocks):
        if i in drawn or block.run.trained_on or not _openorca_rows(block.run):
            continue
        alike = [j for j, other in enumerate(blocks) if _same_tests(block, other)]
        with_rows = [j for j in alike if _openorca_rows(blocks[j].run)]
        without = [j for j in alike if j not in with_rows]
        series = _average_by_rows([blocks[j] for j in [*without[:1], *with_rows]])
        series = {name: points for name, points in series.items() if len({rows for rows, *_ in points}) > 1}
        if series:
            yield i, _openorca_figure(block, series)
        drawn.update(with_rows)


def _openorca_rows(run: Run) -> int:
    return run.results["data"].get("counts", {}).get("openorca", {}).get("train", 0)


def _same_tests(block: Block, other: Block) -> bool:
    mixture = not other.single_tasks and not other.run.trained_on and other.tasks == block.tasks
    return mixture and all(block.comparable(other, task) for task in block.tasks)


def _average_by_rows(blocks: Sequence[Block]) -> dict[str, list[tuple[int, float, float]]]:
    """By row name: (train rows of OpenOrca, mean accuracy, standard deviation) of each block."""
    series: dict[str, list[tuple[int, float, float]]] = {}
    for block in sorted(blocks, key=lambda block: _openorca_rows(block.run)):
        for row in block.rows:
            point = accuracy_point(row, block, AVERAGE)
            if point:
                series.setdefault(row.name, []).append((_openorca_rows(block.run), point[0], point[1] or 0))
    return series


def _openorca_figure(block: Block, series: dict[str, list[tuple[int, float, float]]]) -> RenderedFigure:
    with style():
        title = f"accuracy by rows of OpenOrca, {heading(block.run)}"
        figure, axes = new_axes(title, "train rows of OpenOrca", f"average {PER_CENT}")
        for i, (name, points) in enumerate(series.items()):
            xs, ys, errors = zip(*points, strict=True)
            axes.errorbar(xs, ys, yerr=errors, label=name, capsize=2, **line_style(i))
        ticks = sorted({rows for points in series.values() for rows, *_ in points})
        # Logarithmic but for the 0.
        axes.set_xscale("symlog", linthresh=min(rows for rows in ticks if rows), linscale=0.4)
        axes.set_xticks(ticks, [f"{rows:,}" for rows in ticks])
        axes.minorticks_off()
        legend(axes, len(series))
        return render(figure, title)


def loss_figure(block: Block) -> RenderedFigure | None:
    """Cross entropy by optimiser step, a line for each row: the run of its first seed; thin and dashed: validation."""
    if len(block.rows) > MAX_LINES or block.single_tasks or block.run.trained_on:
        return None
    curves = [(row.name, _losses(row.run, LOSS), _losses(row.run, VALIDATION_LOSS)) for row in block.rows]
    curves = [(name, curve, validations) for name, curve, validations in curves if len(curve) > 1]
    if not curves:
        return None
    with style():
        title = f"loss, {block.title}"
        figure, axes = new_axes(title, "optimiser step", "cross entropy, nats a token")
        for i, (name, curve, validations) in enumerate(curves):
            steps, losses = zip(*curve, strict=True)
            axes.plot(steps, losses, label=name, markevery=max(1, len(steps) // 8), **line_style(i))
            if validations:
                steps, losses = zip(*validations, strict=True)
                (line,) = axes.plot(steps, losses, **line_style(i))
                line.set(linestyle="--", linewidth=0.8)
        validated = any(validations for *_, validations in curves)
        if validated:
            axes.plot([], [], color="black", linestyle="--", linewidth=0.8, label="validation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(axes, len(curves) + validated)
        return render(figure, title)


def _losses(run: Run, pattern: re.Pattern[bytes]) -> list[tuple[int, float]]:
    """Step and loss out of metrics.jsonl, averaged over intervals of steps to at most `MAX_LOSS_POINTS` points."""
    if seal_of(run.path).faults("metrics.jsonl"):
        # The list of what is left out says so.
        return []
    try:
        lines = (run.path / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return []
    points = [(int(match[1]), float(match[2])) for line in lines if (match := pattern.match(line[:LINE_HEAD_BYTES]))]
    size = max(1, -(-len(points) // MAX_LOSS_POINTS))
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]
