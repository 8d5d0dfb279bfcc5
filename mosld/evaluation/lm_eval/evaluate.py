"""Run lm-evaluation-harness on a loaded model, with or without an adapter, and read its results."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import lm_eval.api.task
import lm_eval.evaluator
from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from transformers import PreTrainedTokenizerBase

from mosld.adapters.load import Model
from mosld.data.subjects import subject_of
from mosld.evaluation.correctness import likeliest, likeliest_per_character
from mosld.evaluation.forward import Progress, scoring_mode
from mosld.evaluation.lm_eval.model import bounded_model
from mosld.evaluation.lm_eval.tasks import TASK_MAPPINGS
from mosld.evaluation.scores import Score, accuracy_score, add_subjects

# The metric that is `accuracy` in results.json: the first of these that a task has.
ACCURACIES = ("acc_norm", "acc", "exact_match")
# The filters of gsm8k, and what the fields of a `SolutionPrediction` call them.
FILTERS = {"strict-match": "strict", "flexible-extract": "flexible"}
MMLU = "mmlu"
Json = dict[str, object]
# Metrics of a task, and a scored item, as lm-eval returns them.
Reported = Mapping[str, Any]
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class LmEvalResult:
    """The results of lm-eval.

    Attributes:
        scores: by task, as in results.json; without tasks that have none of `ACCURACIES`.
        records: by task, the lines of its predictions file.
        reported: by task or group, every metric under lm-eval's own name.
        versions: by task, the version of its task file.
    """

    scores: dict[str, Score]
    records: dict[str, list[Json]]
    reported: dict[str, Json]
    versions: Json


def run_lm_eval(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str | ConfigurableTask | Group],
    manager: TaskManager,
    batch_tokens: int,
    limit: int | None = None,
    progress: Progress = iter,
) -> LmEvalResult:
    """Run `lm_eval.simple_evaluate`.

    Args:
        model: a causal language model, with or without an adapter; its training mode is restored at the end.
        tasks: names, or tasks and groups made by `build`.
        batch_tokens: padded tokens per forward pass.
        limit: number of first items of each task; None: all.
        progress: wraps the batches, for a progress bar.
    """
    with scoring_mode(model), _quiet():
        wrapper = bounded_model(model, tokenizer, batch_tokens, progress)
        results = lm_eval.simple_evaluate(model=wrapper, tasks=list(tasks), task_manager=manager, limit=limit)
    built = {task.task_name: task for task in tasks if isinstance(task, ConfigurableTask)}
    samples: dict[str, list[Sample]] = results["samples"]
    scores = {name: _score(results["results"][name], _one_per_item(listed)) for name, listed in samples.items()}
    return LmEvalResult(
        scores={name: score for name, score in scores.items() if score is not None},
        records={name: _records(listed, built.get(name)) for name, listed in samples.items()},
        reported={name: _json_numbers(metrics) for name, metrics in results["results"].items()},
        versions=results["versions"],
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval from drawing a bar for each task, and from asking git and pip about the machine."""
    with (
        patch.object(lm_eval.api.task, "tqdm", lambda items, **_: items),
        patch.object(lm_eval.evaluator, "get_git_commit_hash", lambda: None),
        patch.object(lm_eval.evaluator, "add_env_info", lambda _: None),
    ):
        yield


def _one_per_item(samples: Sequence[Sample]) -> list[Sample]:
    """Keep the first way of extracting an answer, where a task has several with a sample each."""
    return [sample for sample in samples if sample["filter"] == samples[0]["filter"]]


def _score(reported: Reported, items: Sequence[Sample]) -> Score | None:
    suffix = items[0]["filter"]
    metric = next((name for name in ACCURACIES if f"{name},{suffix}" in reported), None)
    if metric is None:
        return None
    accuracy, stderr = _accuracy(reported, metric, suffix)
    score: Score = {"accuracy": accuracy, "stderr": stderr, "n": len(items)}
    if metric == "acc_norm" and f"acc,{suffix}" in reported:
        score["accuracy_raw"], score["stderr_raw"] = _accuracy(reported, "acc", suffix)
    if metric == "exact_match" and all(f"{metric},{name}" in reported for name in FILTERS):
        score["strict"], score["stderr_strict"] = _accuracy(reported, metric, "strict-match")
        score["flexible"], score["stderr_flexible"] = _accuracy(reported, metric, "flexible-extract")
    return score


def _accuracy(reported: Reported, metric: str, suffix: str) -> tuple[float, float]:
    """A metric and its standard error, which is "N/A" for a single item."""
    stderr = reported.get(f"{metric}_stderr,{suffix}")
    return float(reported[f"{metric},{suffix}"]), float(stderr) if isinstance(stderr, float) else 0.0


def _json_numbers(reported: Reported) -> Json:
    """Replace numpy's floats by Python's."""
    return {name: float(entry) if isinstance(entry, float) else entry for name, entry in reported.items()}


def _records(samples: Sequence[Sample], task: ConfigurableTask | None) -> list[Json]:
    """The lines of predictions/<task>.jsonl; where a task has the filters of gsm8k, with what each says."""
    records = [_record(sample, task) for sample in _one_per_item(samples)]
    for name, key in FILTERS.items():
        matches = [bool(sample["exact_match"]) for sample in samples if sample["filter"] == name]
        for record, match in zip(records, matches, strict=False):
            record[key] = match
    return records


def _record(sample: Sample, task: ConfigurableTask | None) -> Json:
    """A line of predictions/<task>.jsonl without any text; for choices the fields of `ChoicePrediction`."""
    row_id = str(sample["doc"].get("id", sample["doc_id"]))
    responses = sample["filtered_resps"]
    if "acc" not in sample or not isinstance(responses[0], list | tuple):
        metrics = {name: float(sample[name]) for name in sample["metrics"] if isinstance(sample[name], int | float)}
        return {"id": row_id, "correct": bool(sample.get("exact_match", 0)), **metrics}
    scores = [float(response[0]) for response in responses]
    record: Json = {"id": row_id, "prediction": likeliest(scores), "correct": bool(sample["acc"])}
    if "acc_norm" in sample and task is not None:
        record["normalised"] = likeliest_per_character(scores, task.doc_to_choice(sample["doc"]))
        record["normalised_correct"] = bool(sample["acc_norm"])
    return {**record, "scores": scores}


def merge_subjects(result: LmEvalResult) -> LmEvalResult:
    """Merge the tasks of mmlu's subjects into one task, scored over all questions, by subject and by category.

    The categories are those of the set's authors. Lm-eval's own (anatomy belongs to STEM there) stay in `reported`.
    """
    subjects = {
        name: mapping.subject for name, mapping in TASK_MAPPINGS.items() if mapping.subject and name in result.records
    }
    records = [
        _with_subject(record, subjects[name])
        for name in result.records
        if name in subjects
        for record in result.records[name]
    ]
    ids = [str(record["id"]) for record in records]
    correct = [bool(record["correct"]) for record in records]
    scores = {name: score for name, score in result.scores.items() if name not in subjects}
    scores[MMLU] = add_subjects(accuracy_score(correct), ids, correct, accuracy_score)
    other_records = {name: lines for name, lines in result.records.items() if name not in subjects}
    return replace(result, scores=scores, records={**other_records, MMLU: records})


def _with_subject(record: Json, subject: str) -> Json:
    """Put the subject into the id of a row of the published set, which is only a number."""
    row_id = str(record["id"])
    return record if subject_of(row_id) == subject else {**record, "id": f"{subject}/test/{row_id}"}
