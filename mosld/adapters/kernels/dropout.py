"""Inverted dropout of the adapters from 16 random bits per element, with a mask of one byte per element.

The plain formula is `torch.nn.functional.dropout`. torch draws a random number for each element, which on CPU takes
most of the time of dropout; here a number of 64 bits serves four elements.
"""

import torch
from torch import Tensor

STEPS = 2**16  # the share that is kept is a multiple of 1 / STEPS


def keep_probability(p: float) -> float:
    """The share of elements that is kept: of those that 16 bits can draw the nearest to 1 - p, never 0 or 1."""
    return min(max(round((1 - p) * STEPS), 1), STEPS - 1) / STEPS


def keep_mask(like: Tensor, p: float) -> Tensor:
    """Which elements are kept, 1 or 0, as int8 in the shape of `like`, from the default generator of its device.

    On CPU, element i in memory is kept where the i-th word of 16 bits, read as a signed number, is below
    ``(keep_probability(p) - 1/2) * 2**16``.
    """
    if like.device.type not in ("cpu", "meta"):
        # An accelerator draws a mask in one kernel; the other kernels would cost more than the saved bits.
        return torch.empty(like.shape, dtype=torch.int8, device=like.device).bernoulli_(keep_probability(p))
    # randint leaves out one number, which has a chance of 2^-64; random_ would not, but cannot be compiled.
    # The comparison and the product with the mask are vectorised for int16 and int8, and not for bool.
    size = like.numel()
    bits = torch.randint(-(2**63), 2**63 - 1, (-(-size // 4),), device=like.device)
    words = bits.view(torch.int16)[:size].view(like.shape)
    return words.lt_(int((keep_probability(p) - 0.5) * STEPS)).to(torch.int8)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """``x * mask / keep_probability(p)`` in training, which is x on average; otherwise, or with p = 0, x itself."""
    if not training or not p:
        return x
    return x * keep_mask(x, p) * (1 / keep_probability(p))
