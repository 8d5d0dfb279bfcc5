"""Rows that lie one after the other in one sequence, and attention that keeps them apart.

A pass over a packed sequence computes no pad: only attention sees the rows side by side, the long ones and the short
ones, padded to the longest. Pads stand behind their row, so causal attention alone hides them: no mask depends on the
rows.

Shapes: T tokens of the packed sequence, R rows of a group, L the longest of them, H heads of the queries, K of the
keys, G = H / K, D width of a head.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Kernel = Callable[..., Any]  # (module, q, k, v, mask, **given) to (y, None), in transformers' shapes


class Places(NamedTuple):
    """Where the vectors of a group's heads lie, packed and padded.

    Attributes:
        packed_RHL: for each padded place, flattened, the packed one [R*H*L]; for a pad any.
        padded_TH: for each packed place, flattened, the padded one [T*H].
    """

    packed_RHL: Tensor
    padded_TH: Tensor


class Group(NamedTuple):
    """Neighbouring rows, padded to the longest for attention alone.

    Attributes:
        start, stop: their tokens of the packed sequence.
        rows: R.
        places: those of the vectors, by number of heads.
    """

    start: int
    stop: int
    rows: int
    places: dict[int, Places]


def lay_out(
    lengths: Sequence[int], heads: Sequence[int], device: torch.device, divided: bool = True
) -> tuple[Group, ...]:
    """Where the rows of a packed sequence lie: long ones and short ones, so that attention costs least.

    Args:
        lengths: of the rows, the longest first.
        heads: of queries and keys, H and K.
        device: of the sequence.
        divided: False: all in one group.
    """
    count = len(lengths)
    cuts = range(1, count) if divided else ()
    cut = min(cuts, key=lambda n: n * lengths[0] ** 2 + (count - n) * lengths[n] ** 2, default=count)
    found, start = [], 0
    for part in filter(None, (lengths[:cut], lengths[cut:])):
        places = {number: _places(part, number, device) for number in {*heads}}
        found.append(Group(start, start + sum(part), len(part), places))
        start += sum(part)
    return tuple(found)


def _places(lengths: Sequence[int], heads: int, device: torch.device) -> Places:
    rows, longest = len(lengths), max(lengths)
    places_L, heads_H = torch.arange(longest), torch.arange(heads)
    lengths_R1 = torch.tensor(lengths).unsqueeze(-1)
    starts_R1 = lengths_R1.cumsum(0) - lengths_R1
    packed_RL = torch.where(places_L < lengths_R1, starts_R1 + places_L, 0)
    packed_RHL = packed_RL.unsqueeze(1) * heads + heads_H.unsqueeze(-1)
    rows_T1 = torch.tensor([row for row in range(rows) for _ in range(lengths[row])]).unsqueeze(-1)
    within_T1 = torch.cat([places_L[:length] for length in lengths]).unsqueeze(-1)
    padded_TH = (rows_T1 * heads + heads_H) * longest + within_T1
    # Views of what has more dimensions would tie compiled code to sizes that happen to be equal.
    return Places(*(places.flatten().clone().to(device) for places in (packed_RHL, padded_TH)))


class _Pad(torch.autograd.Function):
    """From packed to padded vectors. What a pad holds is never attended to, so it has no gradient."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, places: Places) -> Tensor:
        ctx.save_for_backward(places.padded_TH)
        return packed.index_select(0, places.packed_RHL)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (padded_TH,) = ctx.saved_tensors
        return gradients[0].index_select(0, padded_TH), None


class _Pack(torch.autograd.Function):
    """From padded to packed vectors: the pads are left out, and have the gradient 0."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, places: Places) -> Tensor:
        ctx.save_for_backward(places.padded_TH)
        ctx.count = len(padded)
        return padded.index_select(0, places.padded_TH)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (padded_TH,) = ctx.saved_tensors
        zeros = gradients[0].new_zeros(ctx.count, gradients[0].shape[-1])
        return zeros.index_copy_(0, padded_TH, gradients[0]), None


def attend_by_row(
    module: Any, q: Tensor, k: Tensor, v: Tensor, *, groups: Sequence[Group], kernel: Kernel, **given: Any
) -> tuple[Tensor, None]:
    """Attention of each row to itself, in transformers' shapes: q [1, H, T, D], k and v [1, K, T, D] to [1, T, H, D].

    Args:
        module: the attention block.
        q: queries.
        k: keys.
        v: values.
        groups: where the rows lie.
        kernel: causal attention of padded rows.
        given: what the block tells its kernel besides.
    """
    sizes = [group.stop - group.start for group in groups]
    window, found = given.get("sliding_window"), []
    for group, *packed in zip(groups, *(vectors[0].transpose(0, 1).split(sizes) for vectors in (q, k, v)), strict=True):
        padded = [_padded(packed_THD, group) for packed_THD in packed]
        length = padded[0].shape[-2]
        mask = None if window is None or window >= length else sees(length, window, q.device)
        y_RLHD = kernel(module, *padded, mask, **given)[0]
        heads, width = y_RLHD.shape[2:]
        y = _Pack.apply(y_RLHD.transpose(1, 2).reshape(-1, width), group.places[heads])
        found.append(y.view(-1, heads, width))
    return (found[0] if len(found) == 1 else torch.cat(found)).unsqueeze(0), None


def _padded(packed_THD: Tensor, group: Group) -> Tensor:
    """The vectors of a group by row and head [R, H, L, D]."""
    heads, width = packed_THD.shape[1:]
    return _Pad.apply(packed_THD.reshape(-1, width), group.places[heads]).view(group.rows, heads, -1, width)


def sees(length: int, window: int | None, device: torch.device) -> Tensor:
    """True where a token may look: at those up to itself, or the nearest `window` of them [L, L]."""
    seen_LL = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen_LL if window is None else seen_LL.triu(1 - window)


def eager_rows(
    module: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention in plain products, q [R, H, L, D], k and v [R, K, L, D] to [R, L, H, D].

    The heads that share their keys are one matrix: nothing is repeated, which takes two thirds of the time of
    transformers' eager kernel on short rows.
    """
    rows, heads, length, width = q.shape
    seen_LL = sees(length, None, q.device) if mask is None else mask
    bias_LL = torch.full((length, length), -torch.inf, dtype=q.dtype, device=q.device).masked_fill(seen_LL, 0.0)
    flat = (rows * k.shape[1], -1, width)
    scores = torch.bmm(q.reshape(flat), k.reshape(flat).mT).view(rows, heads, length, length)
    shares = torch.add(bias_LL, scores, alpha=scaling).softmax(-1)
    shares = functional.dropout(shares, dropout, module.training)
    y = torch.bmm(shares.view(flat[0], -1, length), v.reshape(flat))
    return y.view(rows, heads, length, width).transpose(1, 2), None
