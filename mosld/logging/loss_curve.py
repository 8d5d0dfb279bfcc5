"""The loss curve of one run as a picture, from the lines of its metrics.jsonl."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

WINDOW = 20  # steps of the running mean


def draw_loss_curve(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Cross entropy of each step with its running mean, and validation accuracy where there is any, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second; no window, no global state
    from matplotlib.figure import Figure

    trained = [(line["step"], line["cross_entropy"]) for line in lines if line.get("cross_entropy") is not None]
    scored = [(line["step"], 100 * line["validation_average"]) for line in lines if "validation_average" in line]
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="optimiser step", ylabel="cross entropy, nats a token")
    steps, losses = [step for step, _ in trained], [loss for _, loss in trained]
    axes.plot(steps, losses, color="0.75", linewidth=1, label="each step")
    axes.plot(steps, _running_mean(losses), color="C0", label=f"mean of {WINDOW} steps")
    handles = list(axes.lines)
    if scored:
        right = axes.twinx()
        right.set_ylabel("validation accuracy, %")
        handles += right.plot(*zip(*scored, strict=True), "o-", color="C1", label="validation accuracy")
    axes.legend(handles=handles, loc="upper right")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)


def _running_mean(values: Sequence[float]) -> list[float]:
    parts = [values[max(0, end - WINDOW) : end] for end in range(1, len(values) + 1)]
    return [sum(part) / len(part) for part in parts]
