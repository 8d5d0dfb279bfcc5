"""Tensors between shards in the processes and whole tensors in files; weights in another dtype.

Tensors are gathered one at a time: a process never holds more of the others' shards than one tensor, and the main
process keeps whole tensors in CPU memory.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from mosld.distributed import zero
from mosld.distributed.fsdp import cast_sharded
from mosld.distributed.launch import launch
from mosld.distributed.processes import Processes, processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds only a shard of the tensor."""
    return isinstance(tensor, DTensor) or zero.is_partitioned(tensor)


def full_shape(tensor: Tensor) -> torch.Size:
    """The shape of the whole tensor."""
    return getattr(tensor, "ds_shape", tensor.shape)


def local_shard(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its rows, or all."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def gather(tensor: Tensor, group: Processes) -> Tensor | None:
    """The whole tensor in the main process's CPU memory; None in the others, which send their shards."""
    if zero.is_partitioned(tensor):
        tensor = zero.gather_partitioned(tensor)
    elif isinstance(tensor, DTensor):
        # An offloaded shard is sent from the device of the process group.
        tensor = DTensor.from_local(
            local_shard(tensor).to(group.device),
            tensor.device_mesh,
            tensor.placements,
            shape=tensor.size(),
            stride=tensor.stride(),
        ).full_tensor()
    return tensor.detach().cpu().contiguous() if group.main else None


@torch.no_grad()
def scatter(tensor: Tensor, source: Tensor | None, group: Processes) -> None:
    """Overwrite a tensor, or this process's shard of it, with the main process's whole tensor."""
    if source is None:
        values = torch.empty(tensor.shape, dtype=tensor.dtype, device=group.device)
    else:
        values = source.to(group.device, tensor.dtype)
    if group.count > 1:
        distributed.broadcast(values, src=0)
    if isinstance(tensor, DTensor):
        shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        values = values[tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))]
    local_shard(tensor).copy_(values)


def gather_state_dict(model: nn.Module, group: Processes) -> dict[str, Tensor]:
    """The state dict with whole tensors in the main process, for `save_pretrained`; empty in the others.

    Tied tensors, such as embeddings and head, stay one tensor under two names.
    """
    gathered: dict[int, Tensor | None] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in gathered:
            gathered[id(tensor)] = gather(tensor, group)
        whole = gathered[id(tensor)]
        if whole is not None:
            state[name] = whole
    return state


def cast_weights(
    model: "PreTrainedModel", dtype: torch.dtype, autocast_dtype: torch.dtype | None = None
) -> "PreTrainedModel":
    """The model with its weights in this dtype: changed in place, or, if it is sharded, a new model.

    Buffers keep their dtype, as they do when a checkpoint is loaded: with rounded rotary frequencies a model would
    score differently from the file that it is saved to.

    Args:
        model: the base model.
        dtype: of its weights.
        autocast_dtype: dtype of matrix products under autocast, where the model is going to train.
    """
    if model.dtype == dtype:
        return model
    first = next(model.parameters())
    if zero.is_partitioned(first):
        return zero.cast_partitioned(model, processes(), dtype)
    if is_sharded(first):
        return cast_sharded(model, processes(), launch(), dtype, autocast_dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model
