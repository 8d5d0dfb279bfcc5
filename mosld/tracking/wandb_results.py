"""What a run sends to Weights & Biases when it ends: summary, tables, figures with the loss curve, the adapter."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import wandb

from mosld.common.files import JsonObject
from mosld.runs.directory import RunDirectory
from mosld.tracking.tracker import Predictions

# Predictions of a task in the table; all of them are in predictions/<task>.jsonl.
ROWS_PER_TASK = 200
RUNNING_MEAN_STEPS = 20
SUMMARY_KEYS = (
    "status", "average", "base_average", "validation_average", "validation_loss", "validation_perplexity", "parameters",
    "tokens_per_second", "peak_memory_bytes", "train_tokens", "best_step", "best_by", "stopped_early", "skipped_steps",
    "routing_accuracy",
)  # fmt: skip


def write_summary(run: wandb.Run, results: JsonObject) -> None:
    """Set how the run ended and the accuracy of each task and category, from which tables of several runs are made."""
    for key in SUMMARY_KEYS:
        if key in results:
            run.summary[key] = results[key]
    for kind, prefix in (("scores", "test"), ("base_scores", "untrained")):
        for name, score in _with_parts(results.get(kind, {}), ["by_category"]):
            run.summary[f"{prefix}/{name}/accuracy"] = score["accuracy"]
            run.summary[f"{prefix}/{name}/stderr"] = score["stderr"]
    if "scores" in results:
        run.summary["test/average"] = results["average"]


def send_tables(run: wandb.Run, results: JsonObject, predictions: Predictions) -> None:
    """Send the scores (of mmlu also by category and subject) and the first predictions of each task, without texts."""
    parts = ["by_category", "by_subject"]
    base_scores = dict(_with_parts(results.get("base_scores", {}), parts))
    scores = [
        [name, score["n"], score["accuracy"], score["stderr"], base_scores.get(name, {}).get("accuracy")]
        for name, score in _with_parts(results["scores"], parts)
    ]
    rows = [
        [task, record["id"], str(record["prediction"]), record["correct"], str(record.get("scores", ""))]
        for task, records in predictions.items()
        for record in records[:ROWS_PER_TASK]
    ]
    run.log(
        {
            "scores": wandb.Table(columns=["task", "items", "accuracy", "stderr", "untrained"], data=scores),
            "predictions": wandb.Table(columns=["task", "id", "prediction", "correct", "scores"], data=rows),
        }
    )


def _with_parts(scores: Mapping[str, JsonObject], kinds: Sequence[str]) -> Iterator[tuple[str, JsonObject]]:
    """Each task with its score, followed by its categories and subjects if it has some, as mmlu/STEM."""
    for task, score in scores.items():
        yield task, score
        for kind in kinds:
            for name, part in score.get(kind, {}).items():
                yield f"{task}/{name}", part


def send_figures(run: wandb.Run, lines: Sequence[JsonObject], figures: Path) -> None:
    """Draw the loss curve into the folder of figures, and send every picture in it."""
    if any("cross_entropy" in line for line in lines):
        draw_loss_curve(lines, figures / "loss.png")
    images = {f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(figures.glob("*.png"))}
    if images:
        run.log(images)


def draw_loss_curve(lines: Sequence[JsonObject], path: Path) -> None:
    """Draw the loss of each step with its running mean, and the loss and accuracy of each validation, as a PNG."""
    # Importing it takes a second. Without pyplot there is no window and no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    trained = [line for line in lines if line.get("cross_entropy") is not None]
    steps = [line["step"] for line in trained]
    losses = [line["cross_entropy"] for line in trained]
    accuracies = _points(lines, "validation_average")
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
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
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)


def _points(lines: Sequence[JsonObject], key: str) -> list[tuple[int, float]]:
    """Step and value of the lines that have one."""
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]


def _running_mean(values: Sequence[float]) -> list[float]:
    windows = [values[max(0, end - RUNNING_MEAN_STEPS) : end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in windows]


def send_adapter(run: wandb.Run, directory: RunDirectory, results: JsonObject) -> None:
    """Send what was trained, as an artifact of type "model", with its scores."""
    folder = directory.adapter if directory.adapter.is_dir() else directory.model
    metadata = {key: results[key] for key in ("method", "model", "average", "config_hash")}
    artifact = wandb.Artifact(str(run.name), type="model", metadata=metadata)
    # The folder is never changed, so W&B needs no second copy of it.
    artifact.add_dir(str(folder), policy="immutable")
    run.log_artifact(artifact)
