"""Questions as packed sequences: the prompt once, then its options side by side, each seeing the prompt and itself.

A block mask and restarted position ids make the packed scores those of one sequence per option, at a fraction of the
cost. The last token of an option is only predicted, never fed; with one-token options (letters) nothing is packed.
Shapes: B questions, S longest packed sequence, P scored positions of the batch, V words of the vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mosld.data.prompts import Encoded


class Measured(Protocol):
    """What has a length in tokens."""

    @property
    def length(self) -> int:
        """Tokens."""


Long = TypeVar("Long", bound=Measured)
PADS = 32  # a batch holds at most a 32nd of its budget in pads: past that another forward pass costs less
PADDING = -1  # segment of a pad; 0 is the prompt, 1, 2, ... are the options


@dataclass(frozen=True, slots=True)
class Packed:
    """One question, packed.

    Attributes:
        question: what was packed.
        tokens, positions, segments: per packed token its id, its place in its own sequence, and whose it is.
        sites: packed indices whose prediction is wanted, in rising order.
        targets: for each option, pairs of (index into `sites`, token to be predicted there).
    """

    question: Encoded
    tokens: list[int]
    positions: list[int]
    segments: list[int]
    sites: list[int]
    targets: list[list[tuple[int, int]]]

    @property
    def length(self) -> int:
        """Packed tokens."""
        return len(self.tokens)


def pack(question: Encoded) -> Packed:
    """Lay the prompt and every option but its last token into one sequence; equal options once, to score equally."""
    start = len(question.prompt)
    tokens, positions, segments = list(question.prompt), list(range(start)), [0] * start
    sites, targets = [start - 1], list[list[tuple[int, int]]]()
    for number, option in enumerate(question.options, start=1):
        first = question.options.index(option)
        if first < number - 1:
            targets.append(targets[first])
            continue
        inner = list(range(len(sites), len(sites) + len(option) - 1))
        sites += range(len(tokens), len(tokens) + len(option) - 1)
        tokens += option[:-1]
        positions += range(start, start + len(option) - 1)
        segments += [number] * (len(option) - 1)
        targets.append(list(zip([0, *inner], option, strict=True)))
    return Packed(question, tokens, positions, segments, sites, targets)


def spread(question: Encoded) -> list[Packed]:
    """Every option as a sequence of its own, for models that cannot see a block mask; prompt and pads as in `pack`."""
    start, found = len(question.prompt), []
    for option in question.options:
        tokens = [*question.prompt, *option[:-1]]
        sites = list(range(start - 1, len(tokens)))
        segments = [0] * start + [1] * (len(option) - 1)
        targets = [list(enumerate(option))]
        found.append(Packed(question, tokens, list(range(len(tokens))), segments, sites, targets))
    return found


def batches(questions: Sequence[Long], batch_tokens: int, most_pads: int | None = None) -> Iterator[list[Long]]:
    """Questions of similar length together, the longest first.

    Args:
        questions: what has a length.
        batch_tokens: most padded tokens of a batch, which has one question at least.
        most_pads: most pads among them (default: a 32nd).
    """
    most_pads = batch_tokens // PADS if most_pads is None else most_pads
    batch: list[Long] = []
    tokens = 0
    for question in sorted(questions, key=lambda q: -q.length):
        padded = batch[0].length * (len(batch) + 1) if batch else 0
        if padded > batch_tokens or padded - tokens - question.length > most_pads:
            yield batch
            batch, tokens = [], 0
        batch.append(question)
        tokens += question.length
    if batch:
        yield batch


def spread_inputs(batch: Sequence[Packed], pad: int) -> dict[str, Tensor]:
    """Keyword arguments of the model's forward on what `spread` made: a 2-D mask, positions are the model's own."""
    return {
        "input_ids": _table([q.tokens for q in batch], pad),
        "attention_mask": token_mask(batch),
        "logits_to_keep": site_mask(batch),
    }


def packed_inputs(batch: Sequence[Packed], pad: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Keyword arguments of the model's forward: input_ids, position_ids, logits_to_keep [B, S], a 4-D mask."""
    segments = _table([q.segments for q in batch], PADDING)
    own_BSS = segments.unsqueeze(-1) == segments.unsqueeze(-2)
    seen_BSS = (own_BSS | (segments == 0).unsqueeze(-2)).tril()
    mask = torch.zeros(seen_BSS.shape, dtype=dtype).masked_fill(~seen_BSS, torch.finfo(dtype).min)
    return {
        "input_ids": _table([q.tokens for q in batch], pad),
        "position_ids": _table([q.positions for q in batch], 0),
        "attention_mask": mask.unsqueeze(1),
        "logits_to_keep": site_mask(batch),
    }


def site_mask(batch: Sequence[Packed]) -> Tensor:
    """True where a prediction is wanted [B, S]: the model's logits are then [P, V], sequence after sequence."""
    sites_BS = torch.zeros(len(batch), max(q.length for q in batch), dtype=torch.bool)
    rows = [row for row, q in enumerate(batch) for _ in q.sites]
    sites_BS[rows, [site for q in batch for site in q.sites]] = True
    return sites_BS


def prompt_mask(batch: Sequence[Packed]) -> Tensor:
    """1 for the tokens of each prompt [B, S], 0 for options and pads."""
    return (_table([q.segments for q in batch], PADDING) == 0).long()


def token_mask(batch: Sequence[Packed]) -> Tensor:
    """1 for every token [B, S], 0 for pads."""
    return (_table([q.segments for q in batch], PADDING) != PADDING).long()


def _table(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    table = torch.full((len(rows), max(map(len, rows))), fill)
    for i, row in enumerate(rows):
        table[i, : len(row)] = torch.tensor(row)
    return table
