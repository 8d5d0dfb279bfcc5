"""Training batches: which rows a step sees, and their tensors. Both are pure functions: nothing is skipped by reading.

The rows of an optimiser step are a uniformly random draw; only its micro-batches are sorted by length, which saves the
padding without changing what the step averages over.
Shapes: B rows of the micro-batch, S longest row, P longest answer.
"""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mosld.data.prompts import PromptEncoder
from mosld.data.rows import Row

IGNORED = -100  # label of a position that has no loss


@dataclass(frozen=True, slots=True)
class Example:
    """A train row: its tokens, and the index of the first token of the answer."""

    row: Row
    tokens: list[int]
    answer_start: int


@dataclass(frozen=True)
class Order:
    """The order of training rows: `rows(step)` is a pure function of (seed, epoch, index).

    Attributes:
        count: train rows.
        batch_size: rows per step; the last step of an epoch may have fewer.
        seed: the run's seed.
    """

    count: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass over the rows."""
        return -(-self.count // self.batch_size)

    def rows(self, step: int) -> list[int]:
        """Indices of the rows that optimiser step `step` (from 0) sees."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return list(_permutation(self.count, self.seed, epoch)[index * self.batch_size :][: self.batch_size])


@functools.lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


def encode_train(rows: Sequence[Row], encoder: PromptEncoder, end: int) -> tuple[list[Example], int]:
    """Tokens of prompt + right answer + end-of-text for each row, and the number of rows whose passage was cut."""
    encoded = encoder.encode(rows, keep=lambda row: [row.answer])
    examples = [Example(e.row, [*e.prompt, *e.options[0], end], len(e.prompt)) for e in encoded]
    return examples, sum(e.cut for e in encoded)


def micro_batches(examples: Sequence[Example], size: int, overhead: int = 0) -> list[list[Example]]:
    """The rows of one step in micro-batches of similar length, the longest first, cut where it costs least.

    Args:
        examples: the rows of the step.
        size: most rows in one micro-batch.
        overhead: what a forward pass costs besides its padded tokens, in tokens: the larger, the fewer cuts.
    """
    ranked = sorted(examples, key=lambda example: -len(example.tokens))
    cost, starts = [0], [0]  # of the first n rows: least cost, and where their last micro-batch starts
    for stop in range(1, len(ranked) + 1):
        choices = [
            (cost[start] + (stop - start) * len(ranked[start].tokens) + overhead, start)
            for start in range(max(0, stop - size), stop)
        ]
        least, start = min(choices)
        cost.append(least)
        starts.append(start)
    batches, stop = [], len(ranked)
    while stop:
        batches.append(ranked[starts[stop] : stop])
        stop = starts[stop]
    return batches[::-1]


def answer_tokens(examples: Sequence[Example]) -> int:
    """Tokens that have a loss."""
    return sum(len(example.tokens) - example.answer_start for example in examples)


def collate(examples: Sequence[Example], pad: int, domains: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """The keyword arguments of the model's forward pass, right-padded, with logits at answer positions alone.

    Returns:
        input_ids, attention_mask: [B, S]; logits_to_keep: [B, P], the positions that predict the answer;
        labels, shift_labels: [B, P], the tokens to be predicted there, already shifted. With domains also
        domain: [B], the index of each row's task among them, and prompt_mask: [B, S].
    """
    longest = max(len(example.tokens) for example in examples)
    answers = max(len(example.tokens) - example.answer_start for example in examples)
    input_ids = torch.full((len(examples), longest), pad)
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
