"""Costs of training that are counted, not timed: operators, bytes kept for backward, reads by the host."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = "view _unsafe_view t transpose unsqueeze squeeze expand slice select detach as_strided alias permute split"
NO_KERNEL = {*VIEWS.split(), "split_with_sizes", "unbind", "empty", "empty_like", "empty_strided"}
READS = {"tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"}
READING_OPERATORS = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "_unique2"}


class Operators(TorchDispatchMode):
    """Counts operators by name, in forward and backward.

    Attributes:
        counts: of those that run a kernel.
        views: of those that only change a tensor's strides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.views: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count an operator and run it."""
        name = func.overloadpacket.__name__
        (self.views if name in NO_KERNEL else self.counts)[name] += 1
        return func(*args, **(kwargs or {}))


class HostReads(TorchFunctionMode):
    """Records the calls by which Python waits for the value of a tensor; on CUDA each one empties the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record a read and run it."""
        name = getattr(func, "__name__", "")
        if name in READS:
            self.calls.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def host_reads() -> Iterator[list[str]]:
    """The host reads inside the context: those that Python asks for, and those inside operators."""
    reads: list[str] = []
    with HostReads() as python, Operators() as operators:
        yield reads
        reads += python.calls
        # A read that Python asked for also runs an operator; the others come from elsewhere.
        inner = [name for name in READING_OPERATORS for _ in range(operators.counts[name])]
        reads += inner[len([name for name in python.calls if name != "tolist"]) :]


class DeviceWaits(TorchFunctionMode):
    """Records what would make the host wait for a GPU, of a step on the meta device, which stands for one.

    An operator whose result depends on values (`item`, `nonzero`, indexing by a mask) raises an error there, so that
    none can be missed. `tolist` gives zeros. Recorded are `tolist`, tensors that are made of Python's numbers on the
    device (`torch.tensor(..., device=)`), and copies that are not `non_blocking`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self._copies = _Copies(self.calls)

    def __enter__(self) -> Any:
        self._copies.__enter__()
        return super().__enter__()

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        self._copies.__exit__(*details)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "tolist" and args[0].is_meta:
            self.calls.append(name)
            return torch.zeros(args[0].shape).tolist()
        made = name in ("tensor", "as_tensor", "scalar_tensor") and not isinstance(args[0], Tensor)
        # An empty tensor is not copied.
        if made and args[0] != [] and torch.device(kwargs.get("device") or "cpu").type == "meta":
            self.calls.append(name)
        return func(*args, **kwargs)


class _Copies(TorchDispatchMode):
    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].device != out.device:
            self.calls += [] if (kwargs or {}).get("non_blocking") else ["copy"]
        elif func is torch.ops.aten.copy_.default and args[0].device != args[1].device:
            self.calls += [] if (*args, (kwargs or {}).get("non_blocking"))[2] else ["copy"]
        return out


@contextmanager
def saved_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Bytes that autograd keeps for backward, each storage once and without weights; one number after the context."""
    weights = {t.untyped_storage()._cdata for t in model.parameters()}
    kept: dict[int, Tensor] = {}  # keeping a tensor keeps its address from being used again

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    total: list[int] = []
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
    total.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
