"""What a run sends to Weights & Biases when it ends: summary, tables, figures with the loss curve, the adapter."""

from collections.abc import Iterator, Mapping, Sequence

import wandb

from mosld.common.files import JsonObject
from mosld.runs.directory import RunDirectory
from mosld.runs.loss_curve import draw_loss_curve
from mosld.tracking.tracker import Predictions

# Predictions of a task in the table; all of them are in predictions/<task>.jsonl.
ROWS_PER_TASK = 200
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


def send_figures(run: wandb.Run, directory: RunDirectory) -> None:
    """Draw the loss curve, and send every picture in the folder of figures."""
    draw_loss_curve(directory)
    images = {f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(directory.figures.glob("*.png"))}
    if images:
        run.log(images)


def send_adapter(run: wandb.Run, directory: RunDirectory, results: JsonObject) -> None:
    """Send what was trained, as an artifact of type "model", with its scores."""
    folder = directory.adapter if directory.adapter.is_dir() else directory.model
    metadata = {key: results[key] for key in ("method", "model", "average", "config_hash")}
    artifact = wandb.Artifact(str(run.name), type="model", metadata=metadata)
    # The folder is never changed, so W&B needs no second copy of it.
    artifact.add_dir(str(folder), policy="immutable")
    run.log_artifact(artifact)
