"""What a piece of training costs, counted and not timed: operators, bytes kept for backward, reads by the host."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = "view _unsafe_view t transpose unsqueeze squeeze expand slice select detach as_strided alias permute split"
NO_KERNEL = {*VIEWS.split(), "split_with_sizes", "unbind", "empty", "empty_like", "empty_strided"}
READS = {"tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"}
READING_OPERATORS = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "_unique2"}


class Operators(TorchDispatchMode):
    """Counts the operators that run a kernel, those of a backward pass included, by name.

    Attributes:
        counts: how often each ran.
        views: operators that only describe a tensor anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.views: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take note of an operator, and run it."""
        name = func.overloadpacket.__name__
        (self.views if name in NO_KERNEL else self.counts)[name] += 1
        return func(*args, **(kwargs or {}))


class HostReads(TorchFunctionMode):
    """Counts the calls by which Python waits for the value of a tensor: on an accelerator each one stops the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take note of a read, and do it."""
        name = getattr(func, "__name__", "")
        if name in READS:
            self.calls.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def host_reads() -> Iterator[list[str]]:
    """The reads inside: those that Python asks for, and operators that cannot do without."""
    with HostReads() as asked, Operators() as operators:
        yield (found := [])
        found += asked.calls
        # A read that Python asked for also shows as an operator: what is more came from elsewhere.
        inner = [name for name in READING_OPERATORS for _ in range(operators.counts[name])]
        found += inner[len([name for name in asked.calls if name != "tolist"]) :]


@contextmanager
def saved_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Bytes that autograd keeps for backward, each storage once; weights are no such bytes."""
    known = {t.untyped_storage()._cdata for t in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        """Take note of a tensor; keeping it keeps its address from being used again."""
        if tensor.untyped_storage()._cdata not in known:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield (found := [])
    found.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
