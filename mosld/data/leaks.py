"""Which rows a run was trained on, and how many rows stand in two splits."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy

from mosld.common.files import JsonObject, read_json
from mosld.data.rows import row_keys
from mosld.data.splits import NO_KEYS, Rows, TaskData


@dataclass(frozen=True)
class Record:
    """Which rows a run was trained on, as the hashes of what they say (see `row_keys`).

    Attributes:
        train: rows that it was trained on.
        validation: rows that its weights were chosen by.
        unused: other rows of its train files, which `data.limit` or `data.drop_leaks` left out.
    """

    train: numpy.ndarray
    validation: numpy.ndarray
    unused: numpy.ndarray

    @property
    def seen(self) -> numpy.ndarray:
        """Rows that the run was trained on or chosen by."""
        return numpy.concatenate([self.train, self.validation])

    @property
    def all(self) -> numpy.ndarray:
        """All rows that are not held out."""
        return numpy.concatenate([self.seen, self.unused])

    def joined(self, earlier: "Record") -> "Record":
        """Both: what a run was trained on that starts from the weights of an earlier one."""
        return Record(*(numpy.concatenate([getattr(one, key.name) for one in (self, earlier)]) for key in fields(self)))

    def tree(self) -> JsonObject:
        """The hashes in base64, for a JSON file."""
        little_endian = {one.name: getattr(self, one.name).astype("<u8").tobytes() for one in fields(self)}
        return {name: base64.b64encode(content).decode() for name, content in little_endian.items()}

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """What `tree` made; None where there is no such file, or it is damaged."""
        tree = read_json(path)
        try:
            return None if tree is None else cls(*(_decoded(tree[one.name]) for one in fields(cls)))
        except (KeyError, TypeError, ValueError, binascii.Error):
            return None


def _decoded(text: str) -> numpy.ndarray:
    return numpy.frombuffer(base64.b64decode(text, validate=True), "<u8")


def record_of(tasks: Iterable[TaskData]) -> Record:
    """Which rows these tasks train on."""
    tasks = list(tasks)
    return Record(
        joined_keys(data.train for data in tasks),
        joined_keys(data.validation for data in tasks),
        numpy.concatenate([NO_KEYS, *(data.unused for data in tasks)]),
    )


def joined_keys(parts: Iterable[Rows]) -> numpy.ndarray:
    """The keys (see `row_keys`) of several splits."""
    return numpy.concatenate([NO_KEYS, *map(row_keys, parts)])


def count_leaks(
    tasks: Mapping[str, TaskData], record: Record | None, training: bool
) -> tuple[dict[str, int] | None, dict[str, dict[str, int]]]:
    """What stands in two splits, by kind and then by task.

    Args:
        tasks: the rows by task.
        record: which rows the run is trained on, of all tasks; None: not known.
        training: whether train and validation rows were read.

    Returns:
        By scored task, the test items that the run was trained on, or None where that is not known; and by kind, with
        counts above 0 alone: "chosen_by" (test items that its weights were chosen by), "validation" (validation items
        that it was trained on), "examples" (test items that are also solved examples), "repeated" (train rows that
        stand there before).
    """
    keys = {name: row_keys(data.test) for name, data in tasks.items() if data.task.scored}
    leaks = None
    others: dict[str, dict[str, int]] = {}
    if record is not None:
        leaks = {name: _shared(test, record.train) for name, test in keys.items()}
        others["chosen_by"] = {name: _shared(test, record.validation) for name, test in keys.items()}
    if training and record is not None:
        others["validation"] = {name: _shared(row_keys(data.validation), record.train) for name, data in tasks.items()}
        others["repeated"] = {
            name: len(data.train) - len(numpy.unique(row_keys(data.train))) for name, data in tasks.items()
        }
    others["examples"] = {
        name: _shared(keys[name], joined_keys(data.examples.values())) for name, data in tasks.items() if name in keys
    }
    return leaks, {
        kind: {name: count for name, count in by_task.items() if count}
        for kind, by_task in others.items()
        if any(by_task.values())
    }


def _shared(keys: numpy.ndarray, others: numpy.ndarray) -> int:
    return int(numpy.isin(keys, others).sum())


# By kind of `count_leaks`, what is said of a task: the count, and of how many rows of which split.
_SENTENCES = {
    "leaks": ("test", "{count} of {rows} test items also stand in train"),
    "chosen_by": ("test", "{count} of {rows} test items also stand in validation"),
    "validation": ("validation", "{count} of {rows} validation items also stand in train"),
    "examples": ("test", "{count} of {rows} test items also stand among the solved examples"),
    "repeated": ("train", "{count} of {rows} train rows stand there more than once"),
}


def leak_notes(data: JsonObject) -> list[str]:
    """Messages about rows that stand in two splits, and about train rows dropped for that reason.

    Recorded results hold these texts, and a report lists them once for all runs: they must stay.

    Args:
        data: the part of results.json about the data.
    """
    by_kind = {"leaks": data.get("leaks") or {}, **(data.get("other_leaks") or {})}
    notes = [
        f"{task}: " + _SENTENCES[kind][1].format(count=count, rows=data["counts"][task][_SENTENCES[kind][0]])
        for kind, by_task in by_kind.items()
        for task, count in by_task.items()
        if count and kind in _SENTENCES
    ]
    dropped = [
        f"{task}: {count} train rows left out that stand in a test, in validation, or in train before"
        for task, count in (data.get("dropped_leaks") or {}).items()
    ]
    return [*notes, *dropped]
