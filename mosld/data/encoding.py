"""Train rows as tokens: prompts, right answers and their ends, with the spans that have a loss."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mosld.data.prompts import Encoded, PromptEncoder, right_option
from mosld.data.rows import AnyRow
from mosld.data.too_long import TooLong, refuse

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


@dataclass(frozen=True)
class TrainRows:
    """The train rows as tokens.

    Attributes:
        examples: the rows that are trained on.
        too_long: by task, the rows that are longer than its limit.
    """

    examples: Sequence[Example]
    too_long: list[TooLong]


def encode_train(rows: Sequence[AnyRow], encoder: PromptEncoder, end: int, too_long: str = "truncate") -> TrainRows:
    """Encode the train rows.

    Args:
        rows: the rows.
        encoder: the prompt format.
        end: the end-of-text token.
        too_long: what becomes of rows that are too long: truncate, drop or error. Rows that cannot be truncated are
            dropped: a worked solution, for instance, would teach to give no result.

    Raises:
        UserError: there are rows that are too long, and `too_long` is "error".
    """
    examples: list[Example] = []
    kept: list[bool] = []
    encoded = encoder.encode(rows, right_option, training=True)
    for question in encoded:
        example = train_example(question, encoder, end)
        fits = example is not None and not (too_long == "drop" and question.untruncated)
        kept.append(fits)
        if example is not None and fits:
            examples.append(example)
    report = report_too_long(encoded, kept, encoder)
    if too_long == "error":
        refuse(report)
    return TrainRows(examples, report)


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


def report_too_long(encoded: Sequence[Encoded], kept: Sequence[bool], encoder: PromptEncoder) -> list[TooLong]:
    """The train rows that are too long, by task."""
    rows: dict[str, int] = defaultdict(int)
    longer: dict[str, list[tuple[Encoded, bool]]] = defaultdict(list)
    for question, fits in zip(encoded, kept, strict=True):
        rows[question.row.task] += 1
        if question.untruncated:
            longer[question.row.task].append((question, fits))
    return [
        TooLong(
            task,
            "train",
            rows[task],
            encoder.limit(task, training=True),
            [question.row.id for question, _ in questions],
            max(question.untruncated for question, _ in questions),
            {"truncated": sum(fits for _, fits in questions), "dropped": sum(not fits for _, fits in questions)},
            encoder.limit_key(task),
        )
        for task, questions in longer.items()
    ]


def answer_tokens(examples: Sequence[Example]) -> int:
    """The number of tokens that have a loss."""
    return sum(end - start for example in examples for start, end in example.spans)
