"""Train rows as tokens: prompts, right answers and their ends, with the spans that have a loss."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy
from pyarrow import RecordBatch

from mosld.data.rows import AnyRow, LazySequence
from mosld.data.tokens.prompts import Encoded, PromptEncoder, right_option
from mosld.data.tokens.token_table import Record, TokenTable, record_batch
from mosld.data.tokens.too_long import SHOWN_ROWS, TooLong, refuse

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A train row as tokens.

    Attributes:
        row: the row.
        tokens: its tokens.
        answer_start: the index of the first token of the last answer, which goes to the end.
        earlier: where the answers of earlier turns lie that have a loss, each from its first token to after its last.
    """

    row: AnyRow
    tokens: list[int]
    answer_start: int
    earlier: Spans = ()

    @property
    def spans(self) -> Spans:
        """The tokens that have a loss."""
        return *self.earlier, (self.answer_start, len(self.tokens))

    @property
    def targets(self) -> list[int]:
        """The tokens that have a loss, in their order."""
        return [token for start, end in self.spans for token in self.tokens[start:end]]


class Examples(LazySequence[Example]):
    """Train rows as tokens, each made when it is asked for.

    Attributes:
        lengths: tokens of each row.
    """

    def __init__(self, rows: Sequence[AnyRow], table: TokenTable, positions: numpy.ndarray) -> None:
        """Take the rows at these positions in rows and table."""
        self._rows = rows
        self._table = table
        self._positions = positions
        self.lengths = table.lengths[positions]

    def __len__(self) -> int:
        return len(self._positions)

    def items(self, indices: range) -> list[Example]:
        """See `LazySequence`."""
        return [self._example(int(self._positions[index])) for index in indices]

    def _example(self, position: int) -> Example:
        record = self._table[position]
        start, *spans = record.marks
        return Example(
            self._rows[position], list(record.tokens), start, tuple(zip(spans[::2], spans[1::2], strict=True))
        )

    def task_counts(self, names: Sequence[str]) -> dict[str, int]:
        """The number of rows of each task, in the order of the rows; `names` are the encoder's tasks."""
        numbers, first, counts = numpy.unique(self._table.task[self._positions], return_index=True, return_counts=True)
        return {names[numbers[i]]: int(counts[i]) for i in numpy.argsort(first)}


@dataclass(frozen=True)
class TrainRows:
    """The train rows as tokens.

    Attributes:
        examples: the rows that are trained on.
        too_long: by task, the rows that are longer than its limit.
    """

    examples: Examples
    too_long: list[TooLong]


def encode_train(
    rows: Sequence[AnyRow], encoder: PromptEncoder, end: int, too_long: str = "truncate", split: str = "train"
) -> TrainRows:
    """Encode rows with their answers, to train on them or to measure the loss.

    Args:
        rows: the rows.
        encoder: the prompt format.
        end: the end-of-text token.
        too_long: what becomes of rows that are too long: truncate, drop or error. Rows that cannot be truncated are
            dropped: a worked solution, for instance, would teach to give no result.
        split: of the rows, for messages.

    Raises:
        UserError: there are rows that are too long, and `too_long` is "error".
    """

    def encode(chunk: Sequence[AnyRow]) -> RecordBatch:
        questions = encoder.encode_chunk(chunk, right_option, training=True)
        return record_batch([_record(question, encoder, end) for question in questions])

    table = encoder.table(rows, encode, ("train", end))
    trained = table.flag & (table.untruncated == 0) if too_long == "drop" else table.flag
    report = list(_too_long(rows, table, trained, encoder, split))
    if too_long == "error":
        refuse(report)
    return TrainRows(Examples(rows, table, numpy.flatnonzero(trained)), report)


def _record(question: Encoded, encoder: PromptEncoder, end: int) -> Record:
    example = train_example(question, encoder, end)
    task = encoder.task_number(question.row)
    if example is None:
        return Record([], [0], question.untruncated, task, 0, False)
    marks = [example.answer_start, *chain.from_iterable(example.earlier)]
    return Record(example.tokens, marks, question.untruncated, task, 0, True)


def _too_long(
    rows: Sequence[AnyRow], table: TokenTable, trained: numpy.ndarray, encoder: PromptEncoder, split: str
) -> Iterator[TooLong]:
    """The rows that are too long, by task."""
    for number, task in enumerate(encoder.tasks):
        longer = numpy.flatnonzero((table.task == number) & (table.untruncated > 0))
        if len(longer):
            truncated = int(trained[longer].sum())
            yield TooLong(
                task,
                split,
                rows=int((table.task == number).sum()),
                count=len(longer),
                limit=encoder.limit(task, training=True),
                first=[rows[int(i)].id for i in longer[:SHOWN_ROWS]],
                longest=int(table.untruncated[longer].max()),
                outcomes={"truncated": truncated, "dropped": len(longer) - truncated},
                keys=encoder.limit_key(task),
            )


def train_example(question: Encoded, encoder: PromptEncoder, end: int) -> Example | None:
    """A row with its answer and the end of it; None if it is too long and cannot be truncated.

    The response of a reply, or a plain text, can be truncated and then has no end.
    """
    task = encoder.tasks[question.row.task]
    limit = encoder.limit(task.name, training=True)
    answer = question.options[0]
    if question.length > limit:
        answer = answer[: max(0, limit - len(question.prompt))] if task.kind in ("reply", "text") else []
    elif encoder.ends_with_eos(question.row):
        answer = [*answer, end]
    tokens = [*question.prompt, *answer]
    # The first token of a plain text has nothing that predicts it.
    start = max(1, len(question.prompt))
    if len(tokens) <= start:
        return None
    return Example(question.row, tokens, start, question.earlier if encoder.all_turns else ())


def longest(examples: Sequence[Example], count: int) -> list[Example]:
    """The longest rows, the longest first."""
    lengths = examples.lengths if isinstance(examples, Examples) else [len(example.tokens) for example in examples]
    order = numpy.argsort(-numpy.asarray(lengths), kind="stable")
    return [examples[int(i)] for i in order[:count]]


def answer_tokens(examples: Sequence[Example]) -> int:
    """The number of tokens that have a loss."""
    return sum(end - start for example in examples for start, end in example.spans)
