""""""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mosld.data.prompts import PromptEncoder, right_option
from mosld.data.rows import AnyRow


@dataclass(frozen=True, slots=True)
class Example:
    """A train row: its tokens, and the index of the first token of the answer."""

    row: AnyRow
    tokens: list[int]
    answer_start: int


class TrainRows(NamedTuple):
    """The train rows as tokens, how many had their passage cut, their response cut, and how many were left out."""

    examples: list[Example]
    cut: int
    cut_responses: int
    left_out: int

    def shortened(self) -> Iterator[str]:
        """What was done to rows that are longer than their task's cutoff, in lines for a person."""
        if self.cut:
            yield f"{self.cut} train rows had their passage cut to the task's cutoff"
        if self.cut_responses:
            yield f"{self.cut_responses} train rows had their response cut to the task's cutoff"
        if self.left_out:
            yield f"{self.left_out} train rows left out: longer than the task's cutoff, and not to be cut"


def encode_train(rows: Sequence[AnyRow], encoder: PromptEncoder, end: int) -> TrainRows:
    """Tokens of prompt + right answer + end-of-text for each row.

    A worked solution that does not fit into its task's cutoff is left out: cut, it would teach to give no result. Of a
    longer response what fits is learnt, without an end; where its question leaves no room it is left out.
    """
    examples, cut, cut_responses = list[Example](), 0, 0
    encoded = encoder.encode(rows, keep=right_option)
    for row in encoded:
        task, answer = encoder.tasks[row.row.task], [*row.options[0], end]
        too_long = task.generated and row.length > task.cutoff
        if too_long:
            answer = row.options[0][: max(0, task.cutoff - len(row.prompt))] if task.kind == "reply" else []
        if answer:
            examples.append(Example(row.row, [*row.prompt, *answer], len(row.prompt)))
            cut, cut_responses = cut + row.cut, cut_responses + too_long
    return TrainRows(examples, cut, cut_responses, len(encoded) - len(examples))


def answer_tokens(examples: Sequence[Example]) -> int:
    """Tokens that have a loss."""
    return sum(len(example.tokens) - example.answer_start for example in examples)
