"""A training step on the meta device: the memory and the multiplications of the real one, with nothing computed.

The whole model runs forward, backward and through the optimiser in shapes alone, so that every method, allocation and
recomputation counts itself; no formula of ours stands for any of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import sdpa_mask

from mosld.config import TrainingConfig
from mosld.data.batches import Example
from mosld.data.rows import Row
from mosld.model.attention import register
from mosld.training.layout import Layout
from mosld.training.ledger import DeviceHabits, Ledger
from mosld.training.optim import make_optimizer, trained_parameters


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
    habits: DeviceHabits,
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
    ledger = Ledger()
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
        made = Layout(model, 0, domains, torch.device("cpu")).inputs(examples)
    meta: dict[str, Any] = tree_map_only(Tensor, lambda real: torch.empty_like(real, device="meta"), made)
    return {**meta, "num_items_in_batch": torch.tensor(0)}


def _give_gradients(trained: dict[str, nn.Parameter]) -> None:
    for parameter in trained.values():
        parameter.grad = torch.empty_like(parameter)


def _update(model: nn.Module, ledger: Ledger, training: TrainingConfig, accelerator: bool) -> int:
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
