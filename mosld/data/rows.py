"""The kinds of rows: a choice among options, a solution that ends in a number, and a reply in free text."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import numpy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Question:
    """What all rows have.

    Attributes:
        task: name of the task it belongs to.
        id: unique within its task.
        context: a passage, or "".
        question: the question or stem.
    """

    task: str
    id: str
    context: str
    question: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that identify the question."""
        return self.context, self.question


@dataclass(frozen=True, slots=True)
class Row(_Question):
    """A multiple-choice question.

    Attributes:
        choices: at least two options.
        answer: index of the right option, from 0.
    """

    choices: tuple[str, ...]
    answer: int

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that identify the question; the order of the choices does not matter."""
        return self.context, self.question, *sorted(choice.lower() for choice in self.choices)


@dataclass(frozen=True, slots=True)
class Solution(_Question):
    """A question whose answer is worked out in free text.

    Attributes:
        answer: the worked solution, as published.
        final: the number it ends in, as text.
    """

    answer: str
    final: str


@dataclass(frozen=True, slots=True)
class Reply(_Question):
    """A question, or an instruction, and the response to it: the last turn of a conversation.

    Attributes:
        response: the answer to learn.
        system: how to answer, at the start of the prompt, or "".
        history: the turns before the question, each what the user wrote and what the assistant answered.
    """

    response: str
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that identify the question; of plain text the whole."""
        return self.context, *(text for turn in self.history for text in turn), self.question or self.response


AnyRow = Row | Solution | Reply


def item(row: AnyRow) -> tuple[str, ...]:
    """The texts that identify a row as an item: passage, question and sorted choices, without case and white space."""
    return tuple(" ".join(text.lower().split()) for text in row.texts)


def hash_of(*texts: str) -> int:
    """A hash of 64 bits."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(texts).encode(), digest_size=8).digest(), "little")


class LazySequence(Sequence[T]):
    """Items that are made when they are asked for."""

    @abstractmethod
    def items(self, indices: range) -> list[T]:
        """The items at these indices."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return self.items(range(len(self))[index])
        position = range(len(self))[index]
        return self.items(range(position, position + 1))[0]


class ColumnarRows(LazySequence[AnyRow]):
    """Many rows, with hashes for what concerns all of them."""

    @abstractmethod
    def hashes(self, name: str) -> numpy.ndarray:
        """A hash of each row [rows], uint64: "key" of its `item`, "group" of its passage or else its item."""

    @abstractmethod
    def take(self, positions: numpy.ndarray) -> "ColumnarRows":
        """The rows at these positions."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Sixteen hex digits over everything in these rows, in their order."""

    @abstractmethod
    def with_equal_choices(self) -> int:
        """How many rows have two equal choices."""


def row_keys(rows: Sequence[AnyRow]) -> numpy.ndarray:
    """The hash of the `item` of each row [rows], uint64: equal for rows that ask the same, wherever they stand."""
    if isinstance(rows, ColumnarRows):
        return rows.hashes("key")
    return numpy.fromiter((hash_of(*item(row)) for row in rows), numpy.uint64, len(rows))
