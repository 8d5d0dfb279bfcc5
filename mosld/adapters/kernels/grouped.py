"""Sums over a token's experts: one grouped product where there are many experts, and sums over few slots.

Shapes: T tokens (any leading dimensions), E experts, K experts per token, R rank, O out.
"""

from functools import reduce

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.nn.functional import grouped_mm

from mosld.adapters.kernels.backward import by_backward

COLUMNS_PER_CHOICE = 256  # from this many columns of B per expert of a token on, sorting tokens by expert is faster


def use_grouped_mm(weight: Tensor, experts: int, rank: int, k: int) -> bool:
    """Whether `up_by_expert` is faster than the product with all experts (benchmarks/crossover.py).

    It depends only on shapes and on the kind of device, never on a timing, so the same run takes the same path again.
    It was measured on CPU alone; on CUDA, grouped products in fp32 wait for the host.
    """
    aligned = rank % 4 == 0  # grouped products need rows of a multiple of 16 bytes
    return aligned and weight.device.type == "cpu" and experts * rank >= COLUMNS_PER_CHOICE * k


def up_by_expert(z: Tensor, gates: Tensor, B: Tensor, k: int) -> Tensor:
    """``sum_i g_i B_i z_i`` [T, O] over the experts with a gate; the plain formula multiplies all E with gates.

    Args:
        z: ``A_i x`` [T, E, R], or [T, 1, R] where all experts share it.
        gates: [T, E], not 0 for at most k experts of a token; the gradient reaches those alone.
        B: [O, E*R], expert i has columns i*R to (i+1)*R.
    """
    rank = z.shape[-1]
    experts = gates.shape[-1]
    weights_TK, chosen_TK = gates.topk(k, dim=-1)
    if z.shape[-2] > 1:
        index_TKR = chosen_TK.unsqueeze(-1).expand(*chosen_TK.shape, rank)
        z = z.expand(*index_TKR.shape[:-2], *z.shape[-2:]).gather(-2, index_TKR)
    sorted_experts, order = chosen_TK.flatten().sort(stable=True)
    ends_E = torch.searchsorted(sorted_experts, torch.arange(experts, device=z.device), right=True).to(torch.int32)
    rows = (weights_TK.unsqueeze(-1) * z).flatten(0, -2)[order]
    products = grouped_mm(rows, B.unflatten(-1, (experts, rank)).permute(1, 2, 0), offs=ends_E)
    return products[order.argsort()].unflatten(0, chosen_TK.shape).sum(-2)


def expand_slots(x_T: Tensor, slots: int) -> Tensor:
    """``x.expand(slots, ...)`` [K, T]: the tensor once for each slot, as a view."""
    return _ExpandSlots.apply(x_T, slots) if by_backward(x_T) else x_T.expand(slots, *x_T.shape)


def sum_slots(x_KT: Tensor) -> Tensor:
    """``x.sum(0)`` [T], slot by slot: torch's own sum over two slots in bfloat16 takes eight times as long on CPU."""
    return _SumSlots.apply(x_KT) if by_backward(x_KT) else reduce(torch.add, x_KT.unbind(0))


class _ExpandSlots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: BackwardCFunction, x_T: Tensor, slots: int) -> Tensor:
        return expand_slots(x_T, slots)

    @staticmethod
    def backward(ctx: BackwardCFunction, gradient_KT: Tensor) -> tuple[Tensor, None]:
        return sum_slots(gradient_KT), None


class _SumSlots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: BackwardCFunction, x_KT: Tensor) -> Tensor:
        ctx.slots = len(x_KT)  # type: ignore[attr-defined]
        return sum_slots(x_KT)

    @staticmethod
    def backward(ctx: BackwardCFunction, gradient_T: Tensor) -> Tensor:
        return expand_slots(gradient_T, ctx.slots)  # type: ignore[attr-defined]
