"""Solved examples before a question: rows of the split that a task keeps for them, those of its own subject."""

from collections.abc import Mapping, Sequence

from mosld.config import UserError
from mosld.data.rows import AnyRow
from mosld.data.subjects import subject_of
from mosld.data.tasks import Task


def examples_of(task: Task, published: Mapping[str, Sequence[AnyRow]], shots: int) -> dict[str, list[AnyRow]]:
    """By subject, its first `shots` examples; nothing for a task that has none.

    Raises:
        UserError: a subject of the test has fewer.
    """
    if task.examples_split is None:
        return {}
    found: dict[str, list[AnyRow]] = {}
    for row in published[task.examples_split]:
        found.setdefault(subject_of(row.id), []).append(row)
    asked = dict.fromkeys(subject_of(row.id) for row in published[task.test_split])
    fewest = min(asked, key=lambda subject: len(found.get(subject, ())), default="")
    have = len(found.get(fewest, ()))
    if asked and have < shots:
        raise UserError(f"evaluation.shots={shots}: the {task.examples_split} split has {have} rows of {fewest}.")
    return {subject: found[subject][:shots] for subject in asked}
