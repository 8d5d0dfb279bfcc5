"""Train rows as tokens: prompt, right answer and end-of-text, with the position where the loss begins."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mosld.data.prompts import PromptEncoder, right_option
from mosld.data.rows import AnyRow


@dataclass(frozen=True, slots=True)
class Example:
    """A train row: its tokens, and the index of the first token of the answer."""

    row: AnyRow
    tokens: list[int]
    answer_start: int


@dataclass(frozen=True)
class TrainRows:
    """The train rows as tokens.

    Attributes:
        examples: the rows that are trained on.
        cut: how many of them had their passage truncated.
        cut_responses: how many of them had their response truncated.
        left_out: how many rows are longer than their task's cutoff and cannot be truncated.
    """

    examples: list[Example]
    cut: int
    cut_responses: int
    left_out: int

    def shortened(self) -> Iterator[str]:
        """Messages about rows that were longer than their task's cutoff."""
        if self.cut:
            yield f"{self.cut} train rows had their passage truncated to the task's cutoff (data.cutoff)"
        if self.cut_responses:
            yield f"{self.cut_responses} train rows had their response truncated to the task's cutoff (data.cutoff)"
        if self.left_out:
            yield f"{self.left_out} train rows were left out: longer than the task's cutoff (data.cutoff)"


def encode_train(rows: Sequence[AnyRow], encoder: PromptEncoder, end: int) -> TrainRows:
    """Encode prompt, right answer and the end-of-text token `end` of each row.

    A solution that exceeds its task's cutoff is left out: truncated, it would teach to give no result. A longer
    response is truncated and has no end token; it is left out if its prompt leaves no tokens for it.
    """
    examples: list[Example] = []
    cut = 0
    cut_responses = 0
    encoded = encoder.encode(rows, keep=right_option)
    for question in encoded:
        task = encoder.tasks[question.row.task]
        answer = [*question.options[0], end]
        too_long = task.generated and question.length > task.cutoff
        if too_long:
            available = max(0, task.cutoff - len(question.prompt)) if task.kind == "reply" else 0
            answer = question.options[0][:available]
        if answer:
            examples.append(Example(question.row, [*question.prompt, *answer], len(question.prompt)))
            cut += question.cut
            cut_responses += too_long
    return TrainRows(examples, cut, cut_responses, len(encoded) - len(examples))


def answer_tokens(examples: Sequence[Example]) -> int:
    """The number of tokens that have a loss."""
    return sum(len(example.tokens) - example.answer_start for example in examples)
