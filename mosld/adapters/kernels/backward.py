"""Where the kernels' own backward passes can stand in for those of the plain formulas."""

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor
from torch.autograd import forward_ad


def by_backward(*tensors: Tensor) -> bool:
    """Whether only a backward pass can differentiate a function of these tensors; else the plain formula is taken.

    Without a gradient torch.compile cannot trace a `torch.autograd.Function`, and forward mode and the transforms of
    torch.func differentiate the plain formula.
    """
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return torch.is_grad_enabled() and not transformed and any(tensor.requires_grad for tensor in tensors)


def may_add_in_place(*gradients: Tensor) -> bool:
    """Whether a backward pass may change its own results: it is not differentiated, and has no batch of gradients."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return not torch.is_grad_enabled()
    return not any(is_functorch_wrapped_tensor(each) or is_legacy_batchedtensor(each) for each in gradients)
