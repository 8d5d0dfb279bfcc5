"""Counts what a computation on the meta device would hold in memory and multiply: from shapes, nothing is computed."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Ledger(TorchDispatchMode):
    """Live bytes and multiplications of all that runs while it is active, backward and recomputation included.

    A storage counts from the operation that makes it until nothing holds it any more, as an allocator would count it:
    what autograd saves, gradients and short-lived results alike. Views share their storage.

    Attributes:
        live: bytes now.
        peak: most bytes at once.
        flops: floating-point operations of matrix products and attention, a multiplication and an addition each one.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; note what it made and what it multiplied."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.note([out] if isinstance(out, Tensor) else tree_leaves(out))
        count: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=out)
        return out

    def note(self, found: Iterable[Any]) -> None:
        """Count the storages of the tensors in `found` that are not counted yet."""
        for tensor in found:
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key = id(storage)  # PyTorch keeps one Python object a storage
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self.live += self._sizes[key]
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class DeviceHabits(TorchFunctionMode):
    """Lets the meta device save what a real one would: an accelerator's own dropout, and products under autocast."""

    PRODUCTS = (F.linear, torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__)

    def __init__(self, accelerator: bool, low_precision: torch.dtype | None) -> None:
        """Of an accelerator, or of a processor; with `low_precision` products are computed in that type."""
        super().__init__()
        self.accelerator, self.low_precision = accelerator, low_precision

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function as the device would."""
        kwargs = kwargs or {}
        if func is F.dropout and self.accelerator:
            return _accelerators_dropout(*args, **kwargs)
        if self.low_precision is not None and func in self.PRODUCTS:
            args = tuple(_cast(value, self.low_precision) for value in args)
        return func(*args, **kwargs)


def _accelerators_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Keeps a byte an element for backward; the processor's keeps the mask in the type of x."""
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
