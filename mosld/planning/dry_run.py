"""A training step on the meta device: the memory and the multiplications of the real one, with nothing computed.

The whole model runs forward, backward and through the optimiser in shapes only, so that every method, allocation and
recomputation counts itself and no formula of ours has to.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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
from mosld.data.rows import Row
from mosld.data.tokens.encoding import Example
from mosld.models.attention import register
from mosld.training.batching import BatchBuilder, Domains
from mosld.training.optim import make_optimizer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


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
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.note([out] if isinstance(out, Tensor) else tree_leaves(out))
        count: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=out)
        return out

    def note(self, values: Iterable[object]) -> None:
        """Count the storages of the tensors among `values` that are not counted yet."""
        for tensor in values:
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            # PyTorch keeps one Python object per storage.
            key = id(storage)
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self.live += self._sizes[key]
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class DeviceMode(TorchFunctionMode):
    """Lets the meta device save for backward what the real device would: its dropout, its products under autocast."""

    PRODUCTS = (F.linear, torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__)

    def __init__(self, accelerator: bool, autocast_dtype: torch.dtype | None) -> None:
        """Choose the device.

        Args:
            accelerator: a GPU; False: the CPU.
            autocast_dtype: type in which products are computed; None: that of their arguments.
        """
        super().__init__()
        self.accelerator = accelerator
        self.autocast_dtype = autocast_dtype

    def __torch_function__(self, func: Any, _: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout and self.accelerator:
            return _gpu_dropout(*args, **kwargs)
        if self.autocast_dtype is not None and func in self.PRODUCTS:
            args = tuple(
                value.to(self.autocast_dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
                for value in args
            )
        return func(*args, **kwargs)


def _gpu_dropout(x: Tensor, p: float = 0.5, training: bool = True, **_: object) -> Tensor:
    """Dropout that saves one byte per element for backward; on CPU the mask has the type of x."""
    return torch.native_dropout(x, p, True)[0] if training and p else x


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


@dataclass(frozen=True)
class BatchShape:
    """The shape of a micro-batch.

    Attributes:
        rows: number of rows.
        length: tokens of each row, its answer included.
        answer: tokens of each row that have a loss.
        accumulating: whether gradients of an earlier micro-batch exist.
    """

    rows: int
    length: int
    answer: int
    accumulating: bool = False


def dry_step(
    model: "PreTrainedModel | PeftModel",
    batch: BatchShape,
    training: TrainingConfig,
    device_mode: DeviceMode,
    domains: Domains,
) -> StepCost:
    """Take one step in shapes.

    Args:
        model: adapted, ready to train, on the meta device.
        batch: the micro-batch.
        training: the training group.
        device_mode: of the device that is meant; with gradient checkpointing the recomputation must run in it, too.
        domains: as `BatchBuilder`.
    """
    model.train()
    trained = trained_parameters(model)
    gradients = sum(parameter.numel() * parameter.element_size() for parameter in trained.values())
    ledger = MemoryLedger()
    ledger.note([*model.parameters(), *model.buffers()])
    start = ledger.live
    with ledger, device_mode, torch.device("meta"):
        if batch.accumulating:
            for parameter in trained.values():
                parameter.grad = torch.empty_like(parameter)
        saved_before = ledger.live
        loss = model(**_inputs(model, batch, domains), use_cache=False).loss
        saved = ledger.live - saved_before
        forward_flops = ledger.flops
        loss.backward()
        del loss
    peak = ledger.peak
    update = _update_peak(model, ledger, training, device_mode.accelerator)
    return StepCost(saved, peak - start, gradients, update - start, ledger.flops, forward_flops)


def _inputs(model: "PreTrainedModel | PeftModel", batch: BatchShape, domains: Domains) -> dict[str, object]:
    """The arguments of the forward pass for rows of equal length, as `BatchBuilder` makes them, on the meta device."""
    row = Row(next(iter(domains), ""), "", "", "", (), 0)
    answer_start = batch.length - min(batch.answer, batch.length - 1)
    examples = [Example(row, [0] * batch.length, answer_start)] * batch.rows
    with torch.device("cpu"):
        inputs = BatchBuilder(model, 0, domains, torch.device("cpu")).inputs(examples)
    meta: dict[str, object] = tree_map_only(Tensor, lambda real: torch.empty_like(real, device="meta"), inputs)
    return {**meta, "num_items_in_batch": torch.tensor(0)}


def _update_peak(model: nn.Module, ledger: MemoryLedger, training: TrainingConfig, accelerator: bool) -> int:
    """Most bytes at once in an optimiser step, its state not counted."""
    if accelerator:
        # The fused kernel updates in place.
        peak = ledger.live
        model.zero_grad()
        return peak
    # In 8 bits the state is smaller, and its update needs no more memory.
    optimizer = make_optimizer(model, replace(training, optimizer="adamw"))
    state = 8 * sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    ledger.peak = ledger.live
    with ledger:
        optimizer.step()
    peak = max(ledger.peak - state, ledger.live - state)
    optimizer.zero_grad()
    return peak


def _fused_attention(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **_: object
) -> tuple[Tensor, None]:
    """Attention by the GPU's memory-efficient kernel, for what it saves; shapes as in transformers."""
    groups: int = getattr(module, "num_key_value_groups", 1)
    bias = None if mask is None else torch.zeros_like(mask, dtype=q.dtype).expand(-1, q.shape[1], -1, -1)
    y = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, repeat_kv(k, groups), repeat_kv(v, groups), bias, True
    )[0]
    return y.transpose(1, 2).contiguous(), None


def _whole_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The mask without a look at its values, which a meta tensor does not have."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})


# torch's own choice of a kernel depends on the device, which is meta here.
FUSED = register("mosld_fused_without_weights", _fused_attention, _fused_attention, _whole_mask)
