"""Packed sequences as the model's inputs, and masks over them.

Shapes: B sequences, S longest packed sequence, P scored positions of the batch, V words of the vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mosld.evaluation.packing import PADDING, Packed


def spread_inputs(batch: Sequence[Packed], pad: int) -> dict[str, Tensor]:
    """Keyword arguments of the model's forward on what `spread` made: a 2-D mask, positions are the model's own."""
    return {
        "input_ids": _table([q.tokens for q in batch], pad),
        "attention_mask": token_mask(batch),
        "logits_to_keep": site_mask(batch),
    }


def packed_inputs(batch: Sequence[Packed], pad: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Keyword arguments of the model's forward: input_ids, position_ids, logits_to_keep [B, S], a 4-D mask."""
    owners, segments = (_table(rows, PADDING) for rows in ([q.owners for q in batch], [q.segments for q in batch]))
    seen_BSS = (_sees(owners) & _sees(segments)).tril()
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


def questions_served(batch: Sequence[Packed]) -> Tensor:
    """For how many questions each token stands [B, S]: 1, all of a sequence where they share it, 0 for pads."""
    owners = _table([q.owners for q in batch], PADDING)
    counts = torch.tensor([len(q.questions) for q in batch]).unsqueeze(1)
    return torch.where(owners == 0, counts, (owners != PADDING).long())


def _sees(labels: Tensor) -> Tensor:
    """Whether a token may see another by their labels [B, S, S]: those of its own and those of all (0)."""
    return (labels.unsqueeze(-1) == labels.unsqueeze(-2)) | (labels == 0).unsqueeze(-2)


def _table(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    table = torch.full((len(rows), max(map(len, rows))), fill)
    for i, row in enumerate(rows):
        table[i, : len(row)] = torch.tensor(row)
    return table
