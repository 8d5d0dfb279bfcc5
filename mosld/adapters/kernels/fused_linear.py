"""The products of one input with several weights, of which backward keeps the input alone.

Shapes: T tokens (any leading dimensions), I in, R rows of a weight.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

Pair = tuple[Tensor, Tensor | None]  # a weight [R, I], and which elements of x it sees [T, I]


def products(x: Tensor, pairs: Sequence[Pair]) -> list[Tensor]:
    """``(x * mask) W^T`` in the type of W for every weight W and mask; no mask: W sees all of x.

    Autograd alone would keep x in the type of the weights, once for all and once more for every mask, and make a
    gradient of x for each product before it adds them up. Under autocast, and where weights differ in type, it does.
    """
    if under_autocast(x) or len({weight.dtype for weight, _ in pairs}) > 1:
        seen = [x.to(weight.dtype) if mask is None else x.to(weight.dtype) * mask for weight, mask in pairs]
        return [linear(part, weight) for part, (weight, _) in zip(seen, pairs, strict=True)]
    weights, masks = zip(*pairs, strict=True)
    return list(_Products.apply(x, len(pairs), *weights, *masks))


def under_autocast(x: Tensor) -> bool:
    """Whether products of x would be made in a lower precision than their weights have."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _seen(x: Tensor, mask: Tensor | None) -> Tensor:
    """In the place of the mask's copy in the type of x, which a product of both would make and leave."""
    return x if mask is None else mask.to(x.dtype).mul_(x)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, *weights_and_masks: Any) -> tuple[Tensor, ...]:
        weights, masks = weights_and_masks[:count], weights_and_masks[count:]
        ctx.count = count
        ctx.save_for_backward(x, *weights_and_masks)
        wide = x.to(weights[0].dtype)
        return tuple(linear(_seen(wide, mask), weight) for weight, mask in zip(weights, masks, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights_and_masks = ctx.saved_tensors
        weights, masks = weights_and_masks[: ctx.count], weights_and_masks[ctx.count :]
        wide_TI = x.to(weights[0].dtype).flatten(0, -2)
        # Each product adds to the sum as it is made: on a processor that takes a third of a product on its own. What a
        # mask is for comes first, while the sum holds nothing else.
        order = sorted(range(ctx.count), key=lambda i: masks[i] is None)
        sum_TI = torch.zeros_like(wide_TI) if ctx.needs_input_grad[0] else None
        of_weights: list[Tensor | None] = [None] * ctx.count
        for place, i in enumerate(order):
            gradient_TR = gradients[i].flatten(0, -2)
            mask_TI = None if masks[i] is None else masks[i].flatten(0, -2).to(wide_TI.dtype)
            if sum_TI is not None:
                into_TI = sum_TI if mask_TI is None or place == 0 else torch.zeros_like(sum_TI)
                torch.addmm(into_TI, gradient_TR, weights[i], out=into_TI)
                if mask_TI is not None:
                    into_TI.mul_(mask_TI)
                    sum_TI = into_TI if place == 0 else sum_TI.add_(into_TI)
            if ctx.needs_input_grad[2 + i]:
                of_weights[i] = gradient_TR.t() @ (wide_TI if mask_TI is None else mask_TI.mul_(wide_TI))
        of_x = None if sum_TI is None else sum_TI.view_as(x).to(x.dtype)
        return (of_x, None, *of_weights, *[None] * ctx.count)
