"""The sum over experts when there are many: every token meets only those that it takes, in one grouped product.

Shapes: T tokens (any leading dimensions), E experts, K experts per token, R rank, O out.
"""

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm

# PART: The sum over experts when there are many: every token meets only those that it takes, in one grouped
# product. Shapes: T tokens (any leading dimensions), E experts, K experts per token, R rank, O out.


# Where one [E*R, O] product for all tokens loses to sorting them by expert: benchmarks/crossover.py, on a processor.
COLUMNS_PER_CHOICE = 256


def use_grouped_mm(weight: Tensor, experts: int, rank: int, k: int) -> bool:
    """Whether `up_by_expert` is faster than the product with all experts.

    It depends on shapes and on the machine's kind alone, never on a timing: the same run takes the same path again. On
    an accelerator nobody has measured it, and in fp32 grouped products there wait for the host.
    """
    aligned = rank % 4 == 0  # rows of 16 bytes, which grouped products ask for
    return aligned and weight.device.type == "cpu" and experts * rank >= COLUMNS_PER_CHOICE * k


def up_by_expert(z: Tensor, gates: Tensor, B: Tensor, k: int) -> Tensor:
    """``sum_i g_i B_i z_i`` [T, O], as the dense product gives it up to rounding.

    Args:
        z: ``A_i x`` [T, E, R], or [T, 1, R] where all experts share it.
        gates: [T, E], not 0 for at most k experts of a token; the gradient reaches those alone.
        B: [O, E*R], expert i has columns i*R to (i+1)*R.
        k: experts of a token.
    """
    rank, experts = z.shape[-1], gates.shape[-1]
    weights, chosen = gates.topk(k, dim=-1)
    if z.shape[-2] > 1:
        index = chosen.unsqueeze(-1).expand(*chosen.shape, rank)
        z = z.expand(*index.shape[:-2], *z.shape[-2:]).gather(-2, index)
    owners, order = chosen.flatten().sort(stable=True)
    ends = torch.searchsorted(owners, torch.arange(experts, device=owners.device), right=True).to(torch.int32)
    rows = (weights.unsqueeze(-1) * z).flatten(0, -2)[order]
    products = grouped_mm(rows, B.unflatten(-1, (experts, rank)).permute(1, 2, 0), offs=ends)
    return products[order.argsort()].unflatten(0, chosen.shape).sum(-2)


# PART: From one tensor to a slot for each of a token's experts and back, added up slot by slot. torch's own sum
# over two slots in bfloat16 takes a processor eight times as long as one addition. Shapes: K slots, T anything.


def spread(x_T: Tensor, slots: int) -> Tensor:
    """The tensor once for each slot [K, T], as a view."""
    return _Spread.apply(x_T, slots)


def total(x_KT: Tensor) -> Tensor:
    """The sum over slots [T]."""
    return _Total.apply(x_KT)


def _added(x_KT: Tensor) -> Tensor:
    return reduce(torch.add, x_KT.unbind(0))


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_T: Tensor, slots: int) -> Tensor:
        return x_T.expand(slots, *x_T.shape)

    @staticmethod
    def backward(ctx: Any, gradient_KT: Tensor) -> tuple[Tensor, None]:
        return _added(gradient_KT), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_KT: Tensor) -> Tensor:
        ctx.slots = len(x_KT)
        return _added(x_KT)

    @staticmethod
    def backward(ctx: Any, gradient_T: Tensor) -> Tensor:
        return gradient_T.expand(ctx.slots, *gradient_T.shape)
