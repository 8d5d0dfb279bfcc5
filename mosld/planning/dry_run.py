"""A training step on the meta device: the memory and the multiplications of the real one, with nothing computed.

The whole model runs forward, backward and through the optimiser in shapes alone, so that every method, allocation and
recomputation counts itself; no formula of ours stands for any of them.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import sdpa_mask

from mosld.adapters.load import trained_parameters
from mosld.config.schema import TrainingConfig
from mosld.data.encoding import Example
from mosld.data.rows import Row
from mosld.models.attention import register
from mosld.training.batching import BatchBuilder
from mosld.training.optim import make_optimizer

# PART: Counts what a computation on the meta device would hold in memory and multiply: from shapes, nothing is
# computed.


class MemoryLedger(TorchDispatchMode):
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


class DeviceMode(TorchFunctionMode):
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


def _accelerators_dropout(x: Tensor, p: float = 0.5, training: bool = True, _: bool = False) -> Tensor:
    """Keeps a byte an element for backward; the processor's keeps the mask in the type of x."""
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


# PART: A training step on the meta device: the memory and the multiplications of the real one, with nothing
# computed. The whole model runs forward, backward and through the optimiser in shapes alone, so that every method,
# allocation and recomputation counts itself; no formula of ours stands for any of them.


@dataclass(frozen=True)
class StepCost:
    """What one micro-batch costs beyond the weights and the optimiser's state.

    Attributes:
        saved: bytes that autograd holds between forward and backward.
        peak: most bytes at once in forward and backward, gradients included.
        gradients: bytes of the gradients.
        update: most bytes at once in the optimiser's step, gradients included.
        flops: floating-point operations, forward and backward.
        forward_flops: those of the forward pass.
    """

    saved: int
    peak: int
    gradients: int
    update: int
    flops: int
    forward_flops: int


def dry_step(
    model: Any,
    *,
    rows: int,
    length: int,
    answer: int,
    training: TrainingConfig,
    domains: Sequence[str] = (),
    habits: DeviceMode,
    accumulating: bool = False,
) -> StepCost:
    """Take one step.

    Args:
        model: adapted, ready to train, on the meta device.
        rows: of the micro-batch.
        length: tokens of each row, its answer included.
        answer: tokens of each row that have a loss.
        training: the training group.
        domains: tasks that have an expert of their own.
        habits: those of the device that is meant; where layers are recomputed, they must be so in these habits, too.
        accumulating: whether there are gradients of an earlier micro-batch.
    """
    model.train()
    trained = trained_parameters(model)
    gradients = sum(parameter.numel() * parameter.element_size() for parameter in trained.values())
    ledger = MemoryLedger()
    ledger.note([*model.parameters(), *model.buffers()])
    start = ledger.live
    with ledger, habits, torch.device("meta"):
        if accumulating:
            _give_gradients(trained)
        saved_before = ledger.live
        loss = model(**_batch(model, rows, length, answer, domains), use_cache=False).loss
        saved, forward_flops = ledger.live - saved_before, ledger.flops
        loss.backward()
        del loss
    peak = ledger.peak
    update = _update(model, ledger, training, habits.accelerator)
    return StepCost(saved, peak - start, gradients, update - start, ledger.flops, forward_flops)


def _batch(model: Any, rows: int, length: int, answer: int, domains: Sequence[str]) -> dict[str, Any]:
    """The arguments of the forward pass for equally long rows, as `Layout` makes them."""
    row = Row(domains[0] if domains else "", "", "", "", (), 0)
    examples = [Example(row, [0] * length, length - min(answer, length - 1))] * rows
    with torch.device("cpu"):
        made = BatchBuilder(model, 0, domains, torch.device("cpu")).inputs(examples)
    meta: dict[str, Any] = tree_map_only(Tensor, lambda real: torch.empty_like(real, device="meta"), made)
    return {**meta, "num_items_in_batch": torch.tensor(0)}


def _give_gradients(trained: dict[str, nn.Parameter]) -> None:
    for parameter in trained.values():
        parameter.grad = torch.empty_like(parameter)


def _update(model: nn.Module, ledger: MemoryLedger, training: TrainingConfig, accelerator: bool) -> int:
    """Most bytes at once in an optimiser step, its state not counted."""
    optimizer = make_optimizer(model, training)
    for group in optimizer.param_groups:
        group["foreach"] = accelerator  # what AdamW chooses by itself on either device
    state = 8 * sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    ledger.peak = ledger.live
    with ledger:
        optimizer.step()
    found = max(ledger.peak - state, ledger.live - state)
    optimizer.zero_grad()
    return found


def _fused(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **_: Any) -> tuple[Tensor, None]:
    """Attention by an accelerator's memory-efficient kernel: what it saves, in transformers' shapes."""
    keys, values = repeat_kv(k, module.num_key_value_groups), repeat_kv(v, module.num_key_value_groups)
    bias = None if mask is None else torch.zeros_like(mask, dtype=q.dtype).expand(-1, q.shape[1], -1, -1)
    found = torch.ops.aten._scaled_dot_product_efficient_attention(q, keys, values, bias, True)[0]
    return found.transpose(1, 2).contiguous(), None


def _whole_mask(*args: Any, **kwargs: Any) -> Any:
    """The mask without a look at its values, which a meta tensor has not."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})


FUSED = register("mosld_fused_without_weights", _fused, _fused, _whole_mask)  # torch's own choice looks at the device
