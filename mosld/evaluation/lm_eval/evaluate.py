"""lm-evaluation-harness as the judge of a model that is loaded here: base alone or with any adapter."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mosld.data.prompts import Tokenizer
from mosld.evaluation.correctness import likeliest, likeliest_per_character
from mosld.evaluation.forward import Progress, scoring
from mosld.evaluation.lm_eval.model import bounded
from mosld.evaluation.scores import Score

ACCURACIES = ("acc_norm", "acc", "exact_match")  # what `accuracy` is, the first that a task has


@dataclass(frozen=True)
class LmEvalResult:
    """What the harness says of a model.

    Attributes:
        scores: by task, as in results.json; tasks without any kind of accuracy are not there.
        records: by task, the lines of its predictions file.
        reported: by task or group, every metric under the harness's own name.
        versions: by task, the version of its task file.
    """

    scores: dict[str, Score]
    records: dict[str, list[dict[str, Any]]]
    reported: dict[str, dict[str, Any]]
    versions: dict[str, Any]


def judge(
    model: Any,
    tokenizer: Tokenizer,
    tasks: Sequence[Any],
    index: Any,
    batch_tokens: int,
    limit: int | None = None,
    progress: Progress = iter,
) -> LmEvalResult:
    """Run the harness's own evaluation.

    Args:
        model: a causal language model, adapted or not; its training mode is restored afterwards.
        tokenizer: the model's.
        tasks: names, or tasks and groups that are made (`harness_tasks.on_rows`, `harness_mmlu.on_subjects`).
        index: the harness's index of task files.
        batch_tokens: padded tokens per forward pass.
        limit: the first items of each task; None: all.
        progress: wraps the batches, for a progress bar.
    """
    from lm_eval import simple_evaluate
    from lm_eval.api import task as drawing

    with scoring(model), _without_bars(drawing):
        lm = bounded(model, tokenizer, batch_tokens, progress)  # puts the model into eval mode, too
        found = simple_evaluate(model=lm, tasks=list(tasks), task_manager=index, limit=limit)
    assert found is not None  # only of several processes that the harness started itself
    samples: dict[str, list[dict[str, Any]]] = found["samples"]
    choices = {task.task_name: task for task in tasks if hasattr(task, "task_name")}
    scores = {name: score for name in samples if (score := _score(found["results"][name], _items(samples[name])))}
    records = {name: [_record(sample, choices.get(name)) for sample in _items(samples[name])] for name in samples}
    return LmEvalResult(
        scores, records, {name: _plain(entry) for name, entry in found["results"].items()}, found["versions"]
    )


@contextmanager
def _without_bars(module: Any) -> Iterator[None]:
    """A module of the harness that draws a bar for each task with tqdm, whether anyone can see it or not, does not."""
    drawn, module.tqdm = module.tqdm, lambda items, **_: items
    try:
        yield
    finally:
        module.tqdm = drawn


def _items(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry an item: a task with several ways to extract an answer has one for each; its first is taken."""
    return [sample for sample in samples if sample["filter"] == samples[0]["filter"]]


def _score(reported: dict[str, Any], items: list[dict[str, Any]]) -> Score:
    filtered = items[0]["filter"]
    named = next((name for name in ACCURACIES if f"{name},{filtered}" in reported), None)
    if named is None:
        return {}
    score: Score = {**_share(reported, named, filtered), "n": len(items)}
    if named == "acc_norm" and f"acc,{filtered}" in reported:
        raw = _share(reported, "acc", filtered)
        return {**score, "accuracy_raw": raw["accuracy"], "stderr_raw": raw["stderr"]}
    return score


def _share(reported: dict[str, Any], metric: str, filtered: str) -> Score:
    error = reported.get(f"{metric}_stderr,{filtered}")
    return {
        "accuracy": float(reported[f"{metric},{filtered}"]),
        "stderr": float(error) if isinstance(error, float) else 0.0,  # "N/A" of a single item
    }


def _plain(reported: dict[str, Any]) -> dict[str, Any]:
    """Numbers as JSON has them, not numpy's."""
    return {name: float(entry) if isinstance(entry, float) else entry for name, entry in reported.items()}


def _record(sample: dict[str, Any], task: Any) -> dict[str, Any]:
    """One line of predictions/<task>.jsonl: as of own scoring where options were compared; no text is part of it."""
    named = sample["doc"].get("id", sample["doc_id"])
    answers = sample["filtered_resps"]
    if "acc" not in sample or not isinstance(answers[0], list | tuple):
        metrics = {name: float(sample[name]) for name in sample["metrics"] if isinstance(sample[name], int | float)}
        return {"id": str(named), "correct": bool(sample.get("exact_match", 0)), **metrics}
    scores = [float(answer[0]) for answer in answers]
    record = {"id": str(named), "prediction": likeliest(scores), "correct": bool(sample["acc"])}
    if "acc_norm" in sample and hasattr(task, "doc_to_choice"):
        best = likeliest_per_character(scores, task.doc_to_choice(sample["doc"]))
        record |= {"normalised": best, "normalised_correct": bool(sample["acc_norm"])}
    return {**record, "scores": scores}
