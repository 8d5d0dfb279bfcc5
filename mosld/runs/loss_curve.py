"""The curve of a run's losses, drawn from its metrics.jsonl."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mosld.common.files import JsonObject
from mosld.runs.directory import RunDirectory
from mosld.runs.record import metrics_line

RUNNING_MEAN_STEPS = 20


def draw_loss_curve(run: RunDirectory) -> None:
    """Draw the loss of each step with its running mean, and the loss and accuracy of each validation, as a PNG.

    Args:
        run: its metrics.jsonl is read, and figures/loss.png written where a step was logged.
    """
    lines = list(read_lines(run.metrics))
    trained = [line for line in lines if line.get("cross_entropy") is not None]
    if not trained:
        return
    # Importing it takes a second. Without pyplot there is no window and no global state.
    from matplotlib.figure import Figure

    steps = [line["step"] for line in trained]
    losses = [line["cross_entropy"] for line in trained]
    accuracies = _points(lines, "validation_average")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="optimiser step", ylabel="cross entropy, nats a token")
    axes.plot(steps, losses, color="0.75", linewidth=1, label="each step")
    axes.plot(steps, _running_mean(losses), color="C0", label=f"mean of {RUNNING_MEAN_STEPS} steps")
    validation_losses = _points(lines, "validation_loss_average")
    if validation_losses:
        axes.plot(*zip(*validation_losses, strict=True), "s--", color="C2", label="validation loss")
    handles = list(axes.lines)
    if accuracies:
        right = axes.twinx()
        right.set_ylabel("validation accuracy, %")
        points = [(step, 100 * share) for step, share in accuracies]
        handles += right.plot(*zip(*points, strict=True), "o-", color="C1", label="validation accuracy")
    axes.legend(handles=handles, loc="upper right")
    run.figures.mkdir(exist_ok=True)
    figure.savefig(run.figures / "loss.png", dpi=150)


def _points(lines: Sequence[JsonObject], key: str) -> list[tuple[int, float]]:
    """Step and value of the lines that have one."""
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]


def _running_mean(values: Sequence[float]) -> list[float]:
    windows = [values[max(0, end - RUNNING_MEAN_STEPS) : end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in windows]


def read_lines(path: Path) -> Iterator[JsonObject]:
    """The lines of metrics.jsonl; none if there is no file yet."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        yield from (dict(values) for line in lines if (values := metrics_line(line)))
