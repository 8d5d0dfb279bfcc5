"""Linear layers of one input with several weights, of which backward keeps the input once.

Shapes: T tokens (any leading dimensions), I in, R rows of a weight.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.nn.functional import linear

MaskedWeight = tuple[Tensor, Tensor | None]  # a weight [R, I], and the mask of the elements of x that it sees [T, I]


def fused_linear(x: Tensor, weights: Sequence[MaskedWeight]) -> list[Tensor]:
    """``(x * mask) W^T`` in the dtype of W for every weight W and its mask; without a mask, W sees all of x.

    The plain formula is `linear` for each weight, which is used under autocast and where weights differ in dtype. With
    it, autograd keeps x in the dtype of the weights, and once more for every mask; here it keeps x as it came.
    """
    dtypes = {weight.dtype for weight, _ in weights}
    if in_autocast(x) or len(dtypes) > 1:
        return [linear(_masked(x.to(weight.dtype), mask), weight) for weight, mask in weights]
    return list(_FusedLinear.apply(x, *(weight for weight, _ in weights), *(mask for _, mask in weights)))


def in_autocast(x: Tensor) -> bool:
    """Whether products of x would be computed in a lower precision than that of their weights."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


class _FusedLinear(torch.autograd.Function):
    """Its backward is made of differentiable operators, so that torch.func and double backward work."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *weights_and_masks: Tensor | None) -> tuple[Tensor, ...]:
        weights, masks = _halves(weights_and_masks)
        wide = x.to(weights[0].dtype)
        return tuple(linear(_masked(wide, mask), weight) for weight, mask in zip(weights, masks, strict=True))

    @staticmethod
    def setup_context(ctx: BackwardCFunction, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved: Sequence[Tensor] = ctx.saved_tensors
        needed: Sequence[bool] = ctx.needs_input_grad
        x = saved[0]
        weights, masks = _halves(saved[1:])
        wide_TI = x.to(weights[0].dtype).flatten(0, -2)
        x_gradient_TI: Tensor | None = None
        weight_gradients: list[Tensor | None] = []
        for i, (weight, mask) in enumerate(zip(weights, masks, strict=True)):
            gradient_TR = gradients[i].flatten(0, -2)
            mask_TI = None if mask is None else mask.flatten(0, -2)
            if needed[0]:
                x_gradient_TI = _add_product(x_gradient_TI, gradient_TR, weight, mask_TI)
            weight_gradients.append(gradient_TR.t() @ _masked(wide_TI, mask_TI) if needed[1 + i] else None)
        x_gradient = None if x_gradient_TI is None else x_gradient_TI.view_as(x).to(x.dtype)
        return (x_gradient, *weight_gradients, *[None] * len(masks))


def _halves(weights_and_masks: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor | None]]:
    count = len(weights_and_masks) // 2
    return [weight for weight in weights_and_masks[:count] if weight is not None], list(weights_and_masks[count:])


def _add_product(total_TI: Tensor | None, gradient_TR: Tensor, weight: Tensor, mask_TI: Tensor | None) -> Tensor:
    """``total + (gradient W) * mask``, in one product where there is no mask."""
    if total_TI is not None and mask_TI is None:
        return torch.addmm(total_TI, gradient_TR, weight)
    product_TI = _masked(gradient_TR @ weight, mask_TI)
    return product_TI if total_TI is None else total_TI + product_TI
