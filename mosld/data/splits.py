"""Which rows serve for training, validation and test: pure functions of the rows' ids, the same for every seed."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mosld.data.rows import AnyRow
from mosld.data.tasks import Task

HOLDOUT = 0.1  # share of train and validation together that the paper's split policy sets aside


@dataclass(frozen=True)
class TaskData:
    """The rows of one task.

    Attributes:
        task: the benchmark, or the user's own task.
        train, validation, test: its rows.
        dropped: train rows that were left out because they stand in a test.
        examples: by subject, rows that stand solved before a question; none without `evaluation.shots`.
    """

    task: Task
    train: list[AnyRow]
    validation: list[AnyRow]
    test: list[AnyRow]
    dropped: int = 0
    examples: dict[str, list[AnyRow]] = field(default_factory=dict)


def needed_splits(task: Task, training: bool, shots: int = 0) -> tuple[str, ...]:
    """The published splits that the task's own split rule reads; without `training`, for scoring alone."""
    train = ["train", *([] if task.holdout or not task.scored else ["validation"])] if training else []
    test = [task.test_split] if task.scored else []
    examples = [task.examples_split] if shots and task.examples_split else []
    return tuple(dict.fromkeys([*train, *test, *examples]))


def split_rows(
    task: Task,
    published: Mapping[str, Sequence[AnyRow]],
    limit: int | None,
    policy: str = "official",
    leaked: Collection[tuple[str, ...]] = (),
) -> TaskData:
    """Apply the task's split rule, leave out train rows that are among the `leaked` items, keep `limit` of the others.

    official  the published splits; of a task without a validation split the share `task.holdout` of train
    paper     train and validation together, of which a tenth is the validation (the split that is the test stays it)

    A row's place depends on the ids alone, so that neither seed nor limit moves a row from one side to the other.
    """
    train = list(published.get("train", []))
    published_validation = [] if task.holdout else list(published.get("validation", []))
    share = task.holdout
    if policy == "paper" and published_validation:
        train, published_validation, share = [*train, *published_validation], [], HOLDOUT
    train, validation = held_out(train, share, "validation") if share else (train, published_validation)
    clean = [row for row in train if item(row) not in leaked]
    return TaskData(
        task,
        sample(clean, limit, "train"),
        validation,
        list(published[task.test_split]) if task.scored else [],
        len(train) - len(clean),
    )


def held_out(rows: Sequence[AnyRow], share: float, purpose: str) -> tuple[list[AnyRow], list[AnyRow]]:
    """The rows without a share of them, at least one, and that share."""
    chosen = _chosen(rows, max(1, round(len(rows) * share)), purpose)
    return [row for i, row in enumerate(rows) if i not in chosen], [rows[i] for i in sorted(chosen)]


def sample(rows: Sequence[AnyRow], count: int | None, purpose: str) -> list[AnyRow]:
    """`count` rows (all where None), chosen by a hash of purpose and id, in their own order."""
    if count is None or count >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(_chosen(rows, count, purpose))]


def _chosen(rows: Sequence[AnyRow], count: int, purpose: str) -> set[int]:
    ranked = sorted(range(len(rows)), key=lambda i: hashlib.sha256(f"{purpose}:{rows[i].id}".encode()).digest())
    return set(ranked[:count])


def item(row: AnyRow) -> tuple[str, ...]:
    """What makes two rows the same item: passage, question and choices in any order, case and white space aside."""
    return tuple(" ".join(text.lower().split()) for text in row.texts)


def items(rows: Iterable[AnyRow]) -> set[tuple[str, ...]]:
    """The items that the rows are."""
    return {item(row) for row in rows}
