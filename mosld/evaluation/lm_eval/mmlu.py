"""MMLU in lm-evaluation-harness: a group with a task for each subject, and what it says of them as one score."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mosld.data.rows import AnyRow
from mosld.data.subjects import subject_of
from mosld.evaluation.correctness import share_right
from mosld.evaluation.lm_eval.evaluate import LmEvalResult
from mosld.evaluation.lm_eval.tasks import KNOWN, task_on_rows
from mosld.evaluation.scores import by_subject

GROUP = "mmlu"


def on_subjects(index: Any, rows: Sequence[AnyRow], examples: Mapping[str, Sequence[AnyRow]], shots: int) -> Any:
    """The harness's group on own rows: of its tasks those whose subject has some.

    Args:
        index: the harness's index of task files.
        rows: the questions; the id of each begins with its subject.
        examples: by subject, the rows that stand solved before a question.
        shots: how many of them.
    """
    tested: dict[str, list[AnyRow]] = {}
    for row in rows:
        tested.setdefault(subject_of(row.id), []).append(row)
    tasks = {}
    for subject, found in tested.items():
        splits = {"test": found, **({"examples": examples[subject]} if shots else {})}
        tasks[f"{GROUP}_{subject}"] = task_on_rows(f"{GROUP}_{subject}", index, splits, shots)
    return _group(GROUP, index, tasks)


def _group(name: str, index: Any, tasks: Mapping[str, Any]) -> Any:
    """A group as its own file has it, with its groups within, of these tasks alone."""
    from lm_eval.api.group import Group

    config = dict(index.task_index[name].cfg)
    group = Group.from_config(config)
    for member in config["task"]:
        inner = index.task_index[member]
        if inner.cfg is None:  # a tag: the names of the tasks that bear it
            found = [tasks[leaf] for leaf in sorted(inner.tags) if leaf in tasks]
        else:
            found = [part for part in [_group(member, index, tasks)] if len(part)]
        for part in found:
            group.all_reduce(part)
    return group


def together(verdict: LmEvalResult) -> LmEvalResult:
    """The verdict with all subjects as one task, scored over all of its questions, by subject and by category.

    The categories are those of the set's authors, as in own scoring. The harness's (anatomy is of STEM there) stay in
    what it reports.
    """
    parts = [name for name in verdict.records if (known := KNOWN.get(name)) and known.subject]
    records = [_named(record, KNOWN[name].subject) for name in parts for record in verdict.records[name]]
    right = [record["correct"] for record in records]

    def score(places: Sequence[int]) -> dict[str, Any]:
        """The share of some of its questions that is right."""
        return share_right([right[i] for i in places])

    whole = {**score(range(len(right))), **by_subject([record["id"] for record in records], score)}
    kept = {name: score for name, score in verdict.scores.items() if name not in parts}
    others = {name: found for name, found in verdict.records.items() if name not in parts}
    return replace(verdict, scores={**kept, GROUP: whole}, records={**others, GROUP: records})


def _named(record: dict[str, Any], subject: str | None) -> dict[str, Any]:
    """A record under a name that no other subject has: rows of the published set are only numbered."""
    name = record["id"]
    return {**record, "id": name if subject_of(name) == subject else f"{subject}/test/{name}"}
