"""Which rows serve for training, validation and test: functions of the rows alone, the same for every seed."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy

from mosld.data.rows import AnyRow, ColumnarRows, LazySequence, row_keys
from mosld.data.tasks import Task

Rows = Sequence[AnyRow]
NO_KEYS = numpy.zeros(0, numpy.uint64)

# Share of train and validation together that the paper's split policy holds out as validation.
PAPER_HOLDOUT = 0.1


@dataclass(frozen=True)
class TaskData:
    """The rows of one task.

    Attributes:
        task: the benchmark, or the user's own task.
        train, validation, test: its rows.
        dropped: train rows that were left out because they are test or validation items, or repeated.
        unused: hashes (see `row_keys`) of the train rows that are not in `train`.
        examples: by subject, the solved examples before a question; none without `evaluation.shots`.
    """

    task: Task
    train: Rows
    validation: Rows
    test: Rows
    dropped: int = 0
    unused: numpy.ndarray = field(default_factory=lambda: NO_KEYS, compare=False)
    examples: dict[str, list[AnyRow]] = field(default_factory=dict)


def needed_splits(task: Task, training: bool, shots: int = 0) -> tuple[str, ...]:
    """The published splits that `split_rows` reads; without `training`, those for scoring."""
    train = ["train", *([] if task.holdout or not task.scored else ["validation"])] if training else []
    test = [task.test_split] if task.scored else []
    examples = [task.examples_split] if shots and task.examples_split else []
    return tuple(dict.fromkeys([*train, *test, *examples]))


def split_rows(
    task: Task,
    published: Mapping[str, Rows],
    limit: int | None,
    policy: str = "official",
    drop_leaks: bool = False,
    tests: numpy.ndarray = NO_KEYS,
) -> TaskData:
    """Apply the task's split rule to its published rows.

    official  the published splits; without a validation split, the share `task.holdout` of train
    paper     train and validation joined, a tenth held out as validation; a validation split that is the test stays it

    Neither seed nor limit moves a row to another split.

    Args:
        task: the benchmark.
        published: rows by published split.
        limit: most train rows; None: all.
        policy: official or paper.
        drop_leaks: leave repeated rows, validation and test items out of train, and test items out of validation.
        tests: keys (see `row_keys`) of the test items of all tasks.
    """
    train: Rows = published.get("train", [])
    validation: Rows = [] if task.holdout else published.get("validation", [])
    share = task.holdout
    if policy == "paper" and validation:
        train = [*train, *validation]
        share = PAPER_HOLDOUT
    if share:
        train, validation = hold_out(train, share, "validation")
    test = published[task.test_split] if task.scored else []
    if drop_leaks:
        validation = without(validation, tests)
        tests = numpy.concatenate([tests, row_keys(validation)])
    clean = first_of_each(without(train, tests)) if drop_leaks else train
    chosen = sample(clean, limit, "train")
    unused = NO_KEYS if chosen is train else numpy.setdiff1d(row_keys(train), row_keys(chosen))
    return TaskData(task, chosen, validation, test, len(train) - len(clean), unused)


def hold_out(rows: Rows, share: float, purpose: str) -> tuple[Rows, Rows]:
    """Split rows into the rest and a share of them, of at least one row.

    A benchmark's rows are chosen by their ids. Of the user's rows, whose ids are line numbers, those with the lowest
    hashes of what they say are chosen: they stay the same ones when the file is sorted, or saved in another format.
    Equal rows stay together, and so do the questions on one passage where there are passages enough.
    """
    count = max(1, round(len(rows) * share))
    if len(rows) < 2:
        return rows, take(rows, numpy.zeros(0, numpy.int64))
    if isinstance(rows, ColumnarRows):
        held = numpy.flatnonzero(_lowest_groups(rows, count, share))
    else:
        held = numpy.array(sorted(_choose(rows, count, purpose)), numpy.int64)
    rest = numpy.setdiff1d(numpy.arange(len(rows)), held, assume_unique=True)
    return take(rows, rest), take(rows, held)


def _lowest_groups(rows: ColumnarRows, count: int, share: float) -> numpy.ndarray:
    """Which rows are among those of the lowest hashes, at least `count` of them, but not all [rows], bool."""
    for name in ("group", "key"):
        hashes = rows.hashes(name)
        groups, sizes = numpy.unique(hashes, return_counts=True)
        if len(groups) * share >= 1:
            break
    chosen = min(int(numpy.searchsorted(numpy.cumsum(sizes), count)) + 1, len(groups) - 1)
    return numpy.isin(hashes, groups[:chosen])


def sample(rows: Rows, count: int | None, purpose: str) -> Rows:
    """`count` rows (None: all), chosen by a hash of purpose and id, or of what they say, in their own order."""
    if count is None or count >= len(rows):
        return rows
    if isinstance(rows, ColumnarRows):
        # Not those with the lowest hashes, which are held out.
        return rows.take(numpy.sort(numpy.argsort(rows.hashes("key"), kind="stable")[-count:]))
    return [rows[i] for i in sorted(_choose(rows, count, purpose))]


def take(rows: Rows, positions: numpy.ndarray) -> Rows:
    """The rows at these positions."""
    return rows.take(positions) if isinstance(rows, ColumnarRows) else [rows[i] for i in positions]


def without(rows: Rows, keys: numpy.ndarray) -> Rows:
    """The rows whose key (see `row_keys`) is none of these."""
    return take(rows, numpy.flatnonzero(~numpy.isin(row_keys(rows), keys))) if len(keys) else rows


def first_of_each(rows: Rows) -> Rows:
    """The rows without those that ask the same as an earlier one."""
    first = numpy.unique(row_keys(rows), return_index=True)[1]
    return rows if len(first) == len(rows) else take(rows, numpy.sort(first))


def _choose(rows: Rows, count: int, purpose: str) -> set[int]:
    ranked = sorted(range(len(rows)), key=lambda i: hashlib.sha256(f"{purpose}:{rows[i].id}".encode()).digest())
    return set(ranked[:count])


class JoinedRows(LazySequence[AnyRow]):
    """The rows of several tasks, one after another."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))

    @property
    def fingerprint(self) -> str | None:
        """Hex digits over everything in these rows; None where a part has none."""
        parts = [rows.fingerprint if isinstance(rows, ColumnarRows) else None for rows in self._parts]
        return None if None in parts else "".join(map(str, parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def items(self, indices: range) -> list[AnyRow]:
        """See `LazySequence`.

        Raises:
            ValueError: the indices do not follow each other.
        """
        if indices.step != 1:
            raise ValueError(f"step {indices.step}: only a step of 1 is supported")
        rows: list[AnyRow] = []
        for part, end in zip(self._parts, self._ends, strict=True):
            begin = end - len(part)
            if begin < indices.stop and indices.start < end:
                rows += part[max(indices.start, begin) - begin : min(indices.stop, end) - begin]
        return rows

    def __iter__(self) -> Iterator[AnyRow]:
        return itertools.chain.from_iterable(self._parts)
