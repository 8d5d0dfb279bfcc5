"""Packed rows, which lie one after the other in one sequence, and attention that keeps them apart.

A pass over a packed sequence computes no pad: only attention pads, in two groups, of the long rows and of the short
ones. Pads stand behind their row, so causal attention alone hides them, and no mask depends on the rows.

Shapes: T tokens of the packed sequence, R rows of a group, L the longest of them, H heads of the queries, K of the
keys, D width of a head.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn import functional

# (module, q, k, v, mask, **options) to (y, weights or None), in transformers' shapes.
Kernel = Callable[..., tuple[Tensor, Tensor | None]]


class TokenIndex(NamedTuple):
    """Where each head's vector of each token of a group is, packed and padded.

    Attributes:
        packed_RHL: for each padded position, flattened, the packed one [R*H*L]; for a pad any.
        padded_TH: for each packed position, flattened, the padded one [T*H].
    """

    packed_RHL: Tensor
    padded_TH: Tensor


class RowGroup(NamedTuple):
    """Neighbouring rows, padded to the longest for attention alone.

    Attributes:
        start: their first token in the packed sequence.
        stop: the token behind their last one.
        rows: R.
        by_heads: where the vectors are, by number of heads.
    """

    start: int
    stop: int
    rows: int
    by_heads: dict[int, TokenIndex]


def lay_out(lengths: Sequence[int], heads: Sequence[int], divided: bool = True) -> tuple[RowGroup, ...]:
    """Group the rows of a packed sequence into long and short ones so that attention costs least; tensors on CPU.

    Args:
        lengths: of the rows, the longest first.
        heads: of queries and keys, H and K.
        divided: False: all in one group.
    """
    count = len(lengths)
    cuts = range(1, count) if divided else ()
    cut = min(cuts, key=lambda n: n * lengths[0] ** 2 + (count - n) * lengths[n] ** 2, default=count)
    groups = []
    start = 0
    for part in filter(None, (lengths[:cut], lengths[cut:])):
        stop = start + sum(part)
        groups.append(RowGroup(start, stop, len(part), {n: _token_index(part, n) for n in {*heads}}))
        start = stop
    return tuple(groups)


def _token_index(lengths: Sequence[int], heads: int) -> TokenIndex:
    longest = max(lengths)
    positions_L = torch.arange(longest)
    heads_H = torch.arange(heads)
    lengths_R1 = torch.tensor(lengths).unsqueeze(-1)
    starts_R1 = lengths_R1.cumsum(0) - lengths_R1
    packed_RL = torch.where(positions_L < lengths_R1, starts_R1 + positions_L, 0)
    packed_RHL = packed_RL.unsqueeze(1) * heads + heads_H.unsqueeze(-1)
    rows_T1 = torch.arange(len(lengths)).repeat_interleave(lengths_R1.flatten()).unsqueeze(-1)
    positions_T1 = torch.cat([positions_L[:length] for length in lengths]).unsqueeze(-1)
    padded_TH = (rows_T1 * heads + heads_H) * longest + positions_T1
    # Views of what has more dimensions would tie compiled code to sizes that happen to be equal.
    return TokenIndex(*(index.flatten().clone() for index in (packed_RHL, padded_TH)))


class _Pad(torch.autograd.Function):
    """From packed to padded vectors. Attention never reads what a pad holds, so it has no gradient."""

    @staticmethod
    def forward(ctx: BackwardCFunction, packed: Tensor, index: TokenIndex) -> Tensor:
        ctx.save_for_backward(index.padded_TH)
        return packed.index_select(0, index.packed_RHL)

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> tuple[Tensor, None]:
        (padded_TH,) = ctx.saved_tensors
        return gradients[0].index_select(0, padded_TH), None


class _Pack(torch.autograd.Function):
    """From padded to packed vectors: the pads are left out, and have the gradient 0."""

    @staticmethod
    def forward(ctx: BackwardCFunction, padded: Tensor, index: TokenIndex) -> Tensor:
        ctx.save_for_backward(index.padded_TH)
        ctx.count = len(padded)  # type: ignore[attr-defined]
        return padded.index_select(0, index.padded_TH)

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> tuple[Tensor, None]:
        (padded_TH,) = ctx.saved_tensors
        zeros = gradients[0].new_zeros(ctx.count, gradients[0].shape[-1])  # type: ignore[attr-defined]
        return zeros.index_copy_(0, padded_TH, gradients[0]), None


def attend_by_row(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    groups: Sequence[RowGroup],
    kernel: Kernel,
    **options: object,
) -> tuple[Tensor, None]:
    """Attention of each row to itself, in transformers' shapes: q [1, H, T, D], k and v [1, K, T, D] to [1, T, H, D].

    Args:
        module: the attention block.
        q: queries.
        k: keys.
        v: values.
        groups: where the rows are.
        kernel: causal attention of padded rows.
        options: what else the block passes to its kernel; with `sliding_window`, a token attends to so many at most.
    """
    sizes = [group.stop - group.start for group in groups]
    window = options.get("sliding_window")
    outputs = []
    for group, *packed in zip(groups, *(vectors[0].transpose(0, 1).split(sizes) for vectors in (q, k, v)), strict=True):
        padded = [_padded(packed_THD, group) for packed_THD in packed]
        length = padded[0].shape[-2]
        mask_LL = causal_mask(length, window, q.device) if isinstance(window, int) and window < length else None
        y_RLHD = kernel(module, *padded, mask_LL, **options)[0]
        heads, width = y_RLHD.shape[2:]
        y = _Pack.apply(y_RLHD.transpose(1, 2).reshape(-1, width), group.by_heads[heads])
        outputs.append(y.view(-1, heads, width))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).unsqueeze(0), None


def _padded(packed_THD: Tensor, group: RowGroup) -> Tensor:
    """The vectors of a group by row and head [R, H, L, D]."""
    heads, width = packed_THD.shape[1:]
    return _Pad.apply(packed_THD.reshape(-1, width), group.by_heads[heads]).view(group.rows, heads, -1, width)


def causal_mask(length: int, window: int | None, device: torch.device) -> Tensor:
    """True where a token may attend: to itself and those before it, or to the nearest `window` of them [L, L]."""
    mask_LL = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return mask_LL if window is None else mask_LL.triu(1 - window)


def eager_rows(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention in plain products, q [R, H, L, D], k and v [R, K, L, D] to [R, L, H, D].

    The heads that share their keys form one matrix, so that no key is repeated. This takes two thirds of the time of
    transformers' eager kernel on short rows.
    """
    rows, heads, length, width = q.shape
    mask_LL = causal_mask(length, None, q.device) if mask is None else mask
    bias_LL = torch.full((length, length), -torch.inf, dtype=q.dtype, device=q.device).masked_fill(mask_LL, 0.0)
    shared = (rows * k.shape[1], -1, width)
    scores = torch.bmm(q.reshape(shared), k.reshape(shared).mT).view(rows, heads, length, length)
    weights = torch.add(bias_LL, scores, alpha=scaling).softmax(-1)
    weights = functional.dropout(weights, dropout, module.training)
    y = torch.bmm(weights.view(shared[0], -1, length), v.reshape(shared))
    return y.view(rows, heads, length, width).transpose(1, 2), None
