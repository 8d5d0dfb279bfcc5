"""Linear layers of one input with several weights, of which backward keeps the input once.

Shapes: T tokens (any leading dimensions), I in, R rows of a weight.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.nn.functional import linear

from mosld.adapters.kernels.backward import by_backward, may_add_in_place

MaskedWeight = tuple[Tensor, Tensor | None]  # a weight [R, I], and the mask of the elements of x that it sees [T, I]

OFFLOADED = (
    "the weights of the adapter are offloaded, and a mixture reads those of its parts: give accelerate's cpu_offload, "
    "disk_offload or dispatch_model preload_module_classes="
    '["MixtureLinear", "MixtureFeedForward"]'
)


def fused_linear(x: Tensor, weights: Sequence[MaskedWeight]) -> list[Tensor]:
    """``(x * mask) W^T`` in the dtype of W for every weight W and its mask; without a mask, W sees all of x.

    The plain formula is `linear` for each weight, which is used under autocast, where weights differ in dtype, and
    where `by_backward` says so. With it, autograd keeps x in the dtype of the weights, and once more for every mask;
    here it keeps x as it came.

    Raises:
        ValueError: the weights are offloaded, and come back only when the module that they belong to is called itself.
    """
    matrices = [weight for weight, _ in weights]
    refuse_offloaded(x, matrices)
    same = len({weight.dtype for weight in matrices}) == 1
    if same and by_backward(x, *matrices) and not in_autocast(x):
        return list(_FusedLinear.apply(x, *matrices, *(mask for _, mask in weights)))
    wide = {weight.dtype: x.to(weight.dtype) for weight in matrices}
    return [linear(_masked(wide[weight.dtype], mask), weight) for weight, mask in weights]


def refuse_offloaded(x: Tensor, matrices: Sequence[Tensor]) -> None:
    """Raise a ValueError where weights are on the meta device and x is not: their product would be no number of x."""
    if not x.is_meta and any(weight.is_meta for weight in matrices):
        raise ValueError(OFFLOADED)


def in_autocast(x: Tensor) -> bool:
    """Whether products of x would be computed in a lower precision than that of their weights."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x * mask``; a product of two dtypes would take twice as long on CPU as a product with the converted mask."""
    return x if mask is None else x * mask.to(x.dtype)


class _FusedLinear(torch.autograd.Function):
    """Backward is differentiable where its own gradient is wanted, so that double backward works."""

    @staticmethod
    def forward(ctx: BackwardCFunction, x: Tensor, *weights_and_masks: Tensor | None) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights_and_masks)  # type: ignore[arg-type]
        weights, masks = _halves(weights_and_masks)
        wide = x.to(weights[0].dtype)
        return tuple(linear(_masked(wide, mask), weight) for weight, mask in zip(weights, masks, strict=True))

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved: Sequence[Tensor] = ctx.saved_tensors
        needed: Sequence[bool] = ctx.needs_input_grad
        x = saved[0]
        weights, masks = _halves(saved[1:])
        wide_TI = _rows(x.to(weights[0].dtype))
        gradients_TR = [_rows(gradient) for gradient in gradients]
        masks_TI = [None if mask is None else _rows(mask) for mask in masks]
        weight_gradients = [
            gradient_TR.t() @ _masked(wide_TI, mask_TI) if wanted else None
            for gradient_TR, mask_TI, wanted in zip(gradients_TR, masks_TI, needed[1:], strict=False)
        ]
        x_gradient = None
        if needed[0]:
            products = list(zip(gradients_TR, weights, masks_TI, strict=True))
            add_up = _sum_products_in_place if may_add_in_place(*gradients) else _sum_products
            x_gradient = add_up(products).view_as(x).to(x.dtype)
        return (x_gradient, *weight_gradients, *[None] * len(masks))


def _rows(tensor: Tensor) -> Tensor:
    """The tensor [T, ...] as a matrix; unlike `flatten`, `reshape` takes a batch of gradients (is_grads_batched)."""
    return tensor.reshape(-1, tensor.shape[-1])


def _halves(weights_and_masks: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor | None]]:
    count = len(weights_and_masks) // 2
    return [weight for weight in weights_and_masks[:count] if weight is not None], list(weights_and_masks[count:])


Product = tuple[Tensor, Tensor, Tensor | None]  # the gradient of an output [T, R], its weight [R, I], its mask [T, I]


def _sum_products(products: Sequence[Product]) -> Tensor:
    """``sum (gradient W) * mask`` [T, I]."""
    return torch.stack([_masked(gradient_TR @ weight, mask_TI) for gradient_TR, weight, mask_TI in products]).sum(0)


def _sum_products_in_place(products: Sequence[Product]) -> Tensor:
    """As `_sum_products`; each product is added as it is computed, which on CPU takes a third of a product alone."""
    total_TI: Tensor | None = None
    # Masked products first: the sum holds nothing else while a mask is applied.
    for gradient_TR, weight, mask_TI in sorted(products, key=lambda product: product[2] is None):
        if mask_TI is None and total_TI is not None:
            total_TI.addmm_(gradient_TR, weight)
            continue
        product_TI = gradient_TR @ weight
        if mask_TI is not None:
            product_TI.mul_(mask_TI.to(product_TI.dtype))
        total_TI = product_TI if total_TI is None else total_TI.add_(product_TI)
    assert total_TI is not None
    return total_TI
