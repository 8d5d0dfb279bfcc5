"""Between tensors that the processes of a run hold in parts and the whole ones that stand in files.

One tensor at a time: a process never holds more of the others' parts than one tensor, and the main process keeps whole
ones in the processor's memory alone.
"""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from mosld.distributed import zero
from mosld.distributed.fsdp import recast
from mosld.distributed.launch import launch
from mosld.distributed.processes import Processes, processes

# PART: Between tensors that the processes of a run hold in parts and the whole ones that stand in files. One tensor
# at a time: a process never holds more of the others' parts than one tensor, and the main process keeps whole ones
# in the processor's memory alone.


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of the tensor alone."""
    return isinstance(tensor, DTensor) or zero.is_shared(tensor)


def shape(tensor: Tensor) -> torch.Size:
    """The shape of the whole tensor."""
    return getattr(tensor, "ds_shape", tensor.shape)


def local(tensor: Tensor) -> Tensor:
    """What of a tensor this process holds: its rows, or all."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def gather(tensor: Tensor, group: Processes) -> Tensor | None:
    """The whole tensor in the processor's memory of the main process; None in the others, which send their parts."""
    if zero.is_shared(tensor):
        tensor = zero.whole(tensor)
    elif isinstance(tensor, DTensor):
        # An offloaded part travels by the device that the processes are joined by.
        parts, shape = local(tensor).to(group.device), tensor.size()
        mesh, places = tensor.device_mesh, tensor.placements
        tensor = DTensor.from_local(parts, mesh, places, shape=shape, stride=tensor.stride()).full_tensor()
    return tensor.detach().cpu().contiguous() if group.main else None


@torch.no_grad()
def scatter(tensor: Tensor, source: Tensor | None, group: Processes) -> None:
    """Overwrite a tensor, or this process's part of it, by the whole one that the main process has."""
    if source is None:
        sent = torch.empty(tensor.shape, dtype=tensor.dtype, device=group.device)
    else:
        sent = source.to(group.device, tensor.dtype)
    if group.count > 1:
        distributed.broadcast(sent, src=0)
    if isinstance(tensor, DTensor):
        shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        sent = sent[tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))]
    local(tensor).copy_(sent)


def whole_state(model: Any, group: Processes) -> dict[str, Tensor]:
    """The state dict with whole tensors in the main process, for `save_pretrained`; empty in the others.

    Tensors that are one under several names, as tied embeddings are, stay one.
    """
    seen: dict[int, Tensor | None] = {}
    names: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen[id(tensor)] = gather(tensor, group)
        found = seen[id(tensor)]
        if found is not None:
            names[name] = found
    return names


# PART: A model's weights in another type.


def in_type(model: Any, dtype: torch.dtype, products: torch.dtype | None = None) -> Any:
    """The model with its weights in this type: itself, or, shared among processes, one that takes its place.

    Buffers keep their type, as they do when a checkpoint is loaded: a model whose rotary frequencies were rounded would
    score otherwise than the file that it is saved to.

    Args:
        model: a transformers model.
        dtype: of its weights.
        products: type of the products under autocast, where the model is going to be trained.
    """
    if model.dtype == dtype:
        return model
    first = next(model.parameters())
    if zero.is_shared(first):
        return zero.recast(model, processes(), dtype)
    if is_sharded(first):
        return recast(model, processes(), launch(), dtype, products)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model
