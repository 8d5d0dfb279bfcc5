"""Rows that are longer than their task's cutoff, or than the model reads: one rule, one message, in every split."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mosld.common.errors import UserError

SHOWN_ROWS = 3


@dataclass(frozen=True)
class TooLong:
    """The rows of one split of a task that are too long.

    Attributes:
        task: the task.
        split: train, validation or test.
        rows: how many rows the split has.
        count: how many of them are longer.
        limit: most tokens of a row.
        first: the ids of the first of them.
        longest: tokens of the longest.
        outcomes: what becomes of them: words and how many rows.
        keys: what decides the limit.
    """

    task: str
    split: str
    rows: int
    count: int
    limit: int
    first: Sequence[str]
    longest: int
    outcomes: dict[str, int]
    keys: str

    def message(self) -> str:
        """One line for the log."""
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in self.outcomes.items() if count)
        return f"{self._count()}: {outcomes} (data.too_long, {self.keys})"

    def refusal(self) -> str:
        """One line for `data.too_long=error`."""
        listed = ", ".join(self.first)
        return (
            f"data.too_long=error: {self._count()}, the first: {listed}. Shorten them, raise the limit ({self.keys}), "
            "or set data.too_long=truncate or drop."
        )

    def _count(self) -> str:
        are = "is" if self.count == 1 else "are"
        rows = f"{self.count:,} of {self.rows:,} {self.split} rows {are} longer"
        return f"{self.task}: {rows} than {self.limit:,} tokens (longest {self.longest:,})"


def refuse(too_long: Iterable[TooLong]) -> None:
    """End for `data.too_long=error`.

    Raises:
        UserError: there are rows that are too long.
    """
    if messages := [one.refusal() for one in too_long]:
        raise UserError(*messages)


def messages(too_long: Iterable[TooLong]) -> Iterator[str]:
    """A line for each task with rows that are too long."""
    return (one.message() for one in too_long)
