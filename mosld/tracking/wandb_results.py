"""What an ended run sends to Weights & Biases besides its curves: summary, tables, figures, the adapter."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from mosld.evaluation.evaluate import Evaluation
from mosld.runs.directory import RunDirectory

# PART: The loss curve of one run as a picture, from the lines of its metrics.jsonl.


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


# PART: What an ended run sends to Weights & Biases besides its curves: summary, tables, figures, the adapter.


TABLE_ROWS = 200  # predictions per task in the table; all of them stand in predictions/<task>.jsonl
SUMMARY = (
    "status", "average", "base_average", "validation_average", "parameters", "tokens_per_second", "peak_memory_bytes",
    "train_tokens", "best_step", "skipped_steps", "routing_accuracy",
)  # fmt: skip


def write_summary(run: Any, results: dict[str, Any]) -> None:
    """How the run ended, and the accuracy of each task and category, of which tables of several runs are made."""
    for key in SUMMARY:
        if key in results:
            run.summary[key] = results[key]
    for kind, prefix in (("scores", "test"), ("base_scores", "untrained")):
        for task, score in results.get(kind, {}).items():
            for name, part in [(task, score), *_parts(task, score, "by_category")]:
                run.summary[f"{prefix}/{name}/accuracy"] = part["accuracy"]
                run.summary[f"{prefix}/{name}/stderr"] = part["stderr"]
    if "scores" in results:
        run.summary["test/average"] = results["average"]


def send_tables(run: Any, results: dict[str, Any], evaluation: Evaluation) -> None:
    """The scores, of mmlu by category and subject too, and the first predictions of each task; no question text."""
    before = dict(_with_parts(results.get("base_scores", {})))
    scores = [
        [name, score["n"], score["accuracy"], score["stderr"], before.get(name, {}).get("accuracy")]
        for name, score in _with_parts(results["scores"])
    ]
    predictions = [
        [task, p.id, str(p.prediction), p.correct, str(getattr(p, "scores", ""))]
        for task, found in evaluation.predictions.items()
        for p in found[:TABLE_ROWS]
    ]
    run.log(
        {
            "scores": wandb.Table(columns=["task", "items", "accuracy", "stderr", "untrained"], data=scores),
            "predictions": wandb.Table(columns=["task", "id", "prediction", "correct", "scores"], data=predictions),
        }
    )


def _with_parts(scores: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each task with its score, and after it its categories and subjects where it has some, as mmlu/STEM."""
    for task, score in scores.items():
        yield task, score
        for kind in ("by_category", "by_subject"):
            yield from _parts(task, score, kind)


def _parts(task: str, score: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    for name, part in score.get(kind, {}).items():
        yield f"{task}/{name}", part


def send_figures(run: Any, lines: Sequence[dict[str, Any]], directory: RunDirectory) -> None:
    """The loss curve, drawn here, and every other picture in the run's figures/, as images."""
    if any("cross_entropy" in line for line in lines):
        draw_loss_curve(lines, directory.path / "figures" / "loss.png")
    found = sorted((directory.path / "figures").glob("*.png"))
    pictures = {f"figures/{path.stem}": wandb.Image(str(path)) for path in found}
    if pictures:
        run.log(pictures)


def send_adapter(run: Any, directory: RunDirectory, results: dict[str, Any]) -> None:
    """What was trained, as an artifact of type "model", with its scores."""
    folder = directory.adapter if directory.adapter.is_dir() else directory.model
    described = {key: results[key] for key in ("method", "model", "average", "config_hash")}
    artifact = wandb.Artifact(run.name, type="model", metadata=described)
    artifact.add_dir(str(folder), policy="immutable")  # the folder is never changed: no second copy of it
    run.log_artifact(artifact)
