"""Inverted dropout of the adapters: 16 random bits an element, a mask of one byte."""

import torch
from torch import Tensor

STEPS = 2**16  # a share is kept in steps of 1 / STEPS


def kept_share(p: float) -> float:
    """The share that is really kept, where `p` are to be dropped: the nearest that 16 bits can draw, never 0 or 1."""
    return min(max(round((1 - p) * STEPS), 1), STEPS - 1) / STEPS


def draw(like: Tensor, p: float) -> Tensor:
    """Which elements are kept, 1 or 0, int8 in the shape of `like`, from its device's own generator.

    The element at place i in memory is kept where the i-th word of 16 bits, read as a signed number, is below
    ``(kept_share(p) - 1/2) * 2**16``; a word of 64 bits from the generator holds four of them.
    """
    if like.device.type not in ("cpu", "meta"):
        # An accelerator draws a mask in one kernel; more of them would cost it more than the bits that they save.
        return torch.empty(like.shape, dtype=torch.int8, device=like.device).bernoulli_(kept_share(p))
    # A processor draws numbers one by one: 64 bits at once take a sixth of bernoulli_'s time. With int16 and int8 the
    # comparison and the product with the mask are vectorised, with bool they are not.
    # The one number that randint leaves out has a chance of 2^-64; random_ would not, but it cannot be compiled.
    size = like.numel()
    bits = torch.randint(-(2**63), 2**63 - 1, (-(-size // 4),), device=like.device)
    words = bits.view(torch.int16)[:size].view(like.shape)
    return words.lt_(int((kept_share(p) - 0.5) * STEPS)).to(torch.int8)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """``x * mask / kept_share(p)`` in training, which is x on average; else, or with p = 0, x itself."""
    if not training or not p:
        return x
    return x * draw(x, p) * (1 / kept_share(p))
