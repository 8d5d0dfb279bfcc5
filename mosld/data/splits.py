"""Which rows serve for training, validation and test: pure functions of the rows' ids, the same for every seed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mosld.data.rows import AnyRow
from mosld.data.tasks import Task


@dataclass(frozen=True)
class TaskData:
    """The rows of one task."""

    task: Task
    train: list[AnyRow]
    validation: list[AnyRow]
    test: list[AnyRow]


def needed_splits(task: Task, training: bool) -> tuple[str, ...]:
    """The published splits that the task's own split rule reads; without `training`, for the test alone."""
    if not training:
        return (task.test_split,)
    return tuple(dict.fromkeys(["train", *([] if task.holdout else ["validation"]), task.test_split]))


def split_rows(task: Task, published: Mapping[str, Sequence[AnyRow]], limit: int | None) -> TaskData:
    """Apply the task's split rule, then keep `limit` train rows.

    Where the task holds out a share of train, a row's place depends on the ids alone, so that neither seed nor limit
    moves a row from one side to the other.
    """
    train = list(published.get("train", []))
    if task.holdout:
        validation = sample(train, round(len(train) * task.holdout), "validation")
        held_out = {row.id for row in validation}
        train = [row for row in train if row.id not in held_out]
    else:
        validation = list(published.get("validation", []))
    if limit is not None:
        train = sample(train, limit, "train")
    return TaskData(task, train, validation, list(published[task.test_split]))


def sample(rows: Sequence[AnyRow], count: int | None, purpose: str) -> list[AnyRow]:
    """`count` rows (all where None), chosen by a hash of purpose and id, in their own order."""
    if count is None or count >= len(rows):
        return list(rows)
    ranked = sorted(range(len(rows)), key=lambda i: hashlib.sha256(f"{purpose}:{rows[i].id}".encode()).digest())
    return [rows[i] for i in sorted(ranked[:count])]
