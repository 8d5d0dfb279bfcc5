"""Which rows serve for training, validation and test: functions of the rows' ids only, the same for every seed."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mosld.data.rows import AnyRow
from mosld.data.tasks import Task

# Share of train and validation together that the paper's split policy holds out as validation.
PAPER_HOLDOUT = 0.1


@dataclass(frozen=True)
class TaskData:
    """The rows of one task.

    Attributes:
        task: the benchmark, or the user's own task.
        train, validation, test: its rows.
        dropped: train rows that were left out because they are test items.
        examples: by subject, the solved examples before a question; none without `evaluation.shots`.
    """

    task: Task
    train: list[AnyRow]
    validation: list[AnyRow]
    test: list[AnyRow]
    dropped: int = 0
    examples: dict[str, list[AnyRow]] = field(default_factory=dict)


def needed_splits(task: Task, training: bool, shots: int = 0) -> tuple[str, ...]:
    """The published splits that `split_rows` reads; without `training`, those for scoring."""
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
    """Apply the task's split rule to its published rows.

    official  the published splits; without a validation split, the share `task.holdout` of train
    paper     train and validation joined, a tenth held out as validation; a validation split that is the test stays it

    The split of a row depends on the ids only, so neither seed nor limit moves a row to another split.

    Args:
        task: the benchmark.
        published: rows by published split.
        limit: most train rows; None: all.
        policy: official or paper.
        leaked: items (see `item`) to leave out of train.
    """
    train = list(published.get("train", []))
    validation = [] if task.holdout else list(published.get("validation", []))
    share = task.holdout
    if policy == "paper" and validation:
        train += validation
        share = PAPER_HOLDOUT
    if share:
        train, validation = hold_out(train, share, "validation")
    clean = [row for row in train if item(row) not in leaked]
    return TaskData(
        task,
        sample(clean, limit, "train"),
        validation,
        list(published[task.test_split]) if task.scored else [],
        len(train) - len(clean),
    )


def hold_out(rows: Sequence[AnyRow], share: float, purpose: str) -> tuple[list[AnyRow], list[AnyRow]]:
    """Split rows into the rest and a share of them, of at least one row."""
    chosen = _choose(rows, max(1, round(len(rows) * share)), purpose)
    return [row for i, row in enumerate(rows) if i not in chosen], [rows[i] for i in sorted(chosen)]


def sample(rows: Sequence[AnyRow], count: int | None, purpose: str) -> list[AnyRow]:
    """`count` rows (None: all), chosen by a hash of purpose and id, in their own order."""
    if count is None or count >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(_choose(rows, count, purpose))]


def _choose(rows: Sequence[AnyRow], count: int, purpose: str) -> set[int]:
    ranked = sorted(range(len(rows)), key=lambda i: hashlib.sha256(f"{purpose}:{rows[i].id}".encode()).digest())
    return set(ranked[:count])


def item(row: AnyRow) -> tuple[str, ...]:
    """The texts that identify a row as an item: passage, question and sorted choices, without case and white space."""
    return tuple(" ".join(text.lower().split()) for text in row.texts)


def items(rows: Iterable[AnyRow]) -> set[tuple[str, ...]]:
    """The items of these rows."""
    return {item(row) for row in rows}
