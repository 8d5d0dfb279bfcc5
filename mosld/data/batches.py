"""Training batches: rows as tokens, the micro-batches of a step, and their tensors.

The rows of an optimiser step are a uniformly random draw; how they lie in micro-batches, packed without a pad or padded
beside rows of like length, does not change what the step averages over.
Shapes: B rows of the micro-batch, S longest row, P longest answer; packed: T tokens of all rows, P of all answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch

from mosld.data.prompts import PromptEncoder, right_option
from mosld.data.rows import AnyRow

IGNORED = -100  # label of a position that has no loss


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


def even_batches(examples: Sequence[Example], size: int) -> list[list[Example]]:
    """The rows of one step in as few packed micro-batches as `size` rows each allow, of about as many tokens.

    In each the longest row comes first.
    """
    batches: list[list[Example]] = [[] for _ in range(-(-len(examples) // size))]
    tokens = [0] * len(batches)
    for example in _longest_first(examples):
        lightest = min((i for i, batch in enumerate(batches) if len(batch) < size), key=tokens.__getitem__)
        batches[lightest].append(example)
        tokens[lightest] += len(example.tokens)
    return batches


def like_batches(examples: Sequence[Example], size: int, overhead: int = 0) -> list[list[Example]]:
    """The rows of one step in padded micro-batches of similar length, the longest first, cut where it costs least.

    Args:
        examples: the rows of the step.
        size: most rows in one micro-batch.
        overhead: what a forward pass costs besides its padded tokens, in tokens: the larger, the fewer cuts.
    """
    ranked = _longest_first(examples)
    cost, starts = [0], [0]  # of the first n rows: least cost, and where their last micro-batch starts
    for stop in range(1, len(ranked) + 1):
        choices = [
            (cost[start] + (stop - start) * len(ranked[start].tokens) + overhead, start)
            for start in range(max(0, stop - size), stop)
        ]
        least, start = min(choices)
        cost.append(least)
        starts.append(start)
    batches, stop = list[list[Example]](), len(ranked)
    while stop:
        batches.append(ranked[starts[stop] : stop])
        stop = starts[stop]
    return batches[::-1]


def _longest_first(examples: Sequence[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: -len(example.tokens))


def answer_tokens(examples: Sequence[Example]) -> int:
    """Tokens that have a loss."""
    return sum(len(example.tokens) - example.answer_start for example in examples)


def pack(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """The keyword arguments of the model's forward pass on rows laid end to end, with logits at answer positions alone.

    Returns:
        input_ids, position_ids: [1, T], positions counted in each row; logits_to_keep: [P], the positions that predict
        an answer; labels, shift_labels: [1, P], the tokens to be predicted there, already shifted. And an
        attention_mask [1, 1, 1, 1] that keeps transformers from making one of T x T: not a number, since where rows lie
        is told otherwise, and a model that took this for a mask must not go on.
    """
    starts = [0, *accumulate(len(example.tokens) for example in examples)]
    answers = [
        range(start + example.answer_start - 1, start + len(example.tokens) - 1)
        for start, example in zip(starts, examples, strict=False)
    ]
    labels = torch.tensor([[token for example in examples for token in example.tokens[example.answer_start :]]])
    return {
        "input_ids": torch.tensor([[token for example in examples for token in example.tokens]]),
        "position_ids": torch.cat([torch.arange(len(example.tokens)) for example in examples]).unsqueeze(0),
        "attention_mask": torch.full((1, 1, 1, 1), torch.nan),
        "logits_to_keep": torch.tensor([place for places in answers for place in places]),
        "labels": labels,
        "shift_labels": labels,
    }


def pad(examples: Sequence[Example], filler: int, domains: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """The keyword arguments of the model's forward pass, right-padded, with logits at answer positions alone.

    Returns:
        input_ids, attention_mask: [B, S]; logits_to_keep: [B, P], the positions that predict the answer;
        labels, shift_labels: [B, P], the tokens to be predicted there, already shifted. With domains also
        domain: [B], the index of each row's task among them, and prompt_mask: [B, S].
    """
    longest = max(len(example.tokens) for example in examples)
    answers = max(len(example.tokens) - example.answer_start for example in examples)
    input_ids = torch.full((len(examples), longest), filler)
    attention_mask = torch.zeros_like(input_ids)
    positions = torch.zeros(len(examples), answers, dtype=torch.long)
    labels = torch.full((len(examples), answers), IGNORED)
    for i, example in enumerate(examples):
        length, answer = len(example.tokens), example.tokens[example.answer_start :]
        input_ids[i, :length] = torch.tensor(example.tokens)
        attention_mask[i, :length] = 1
        labels[i, : len(answer)] = torch.tensor(answer)
        positions[i, : len(answer)] = torch.arange(example.answer_start - 1, length - 1)
    batch = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "logits_to_keep": positions,
        "labels": labels,
        "shift_labels": labels,
    }
    if domains:
        starts = torch.tensor([example.answer_start for example in examples])
        batch["domain"] = torch.tensor([domains.index(example.row.task) for example in examples])
        batch["prompt_mask"] = (torch.arange(longest) < starts.unsqueeze(-1)).long()
    return batch
