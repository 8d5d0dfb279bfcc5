"""FSDP2 of the frozen base: each process keeps a part of every layer, and a layer is whole only while it runs.

The base is shared before an adapter is put on it, so the adapter stays whole in every process, in float32: it is small,
and its gradients, optimiser, checkpoints and files are those of a run with whole models. FSDP sees frozen weights
alone, all of one type, and has no gradient to exchange.

Only the main process reads the weights. The others build the model without any and are sent their parts.
"""

from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from mosld.config.launch import Launch
from mosld.model.processes import Processes


def shard(model: Any, team: Processes, launch: Launch) -> Any:
    """Share the model among the processes, in place.

    Args:
        model: whole in the main process, on the meta device in the others; it is frozen.
        team: the processes of this run.
        launch: what the launcher asked for.

    Raises:
        RuntimeError: a weight stayed whole; nothing has been trained then.
    """
    model.requires_grad_(False)
    whole = model.state_dict() if team.main else {}
    pinned = torch.cuda.is_available()
    options: dict[str, Any] = {
        "mesh": init_device_mesh(team.device.type, (team.count,)),
        "offload_policy": CPUOffloadPolicy(pin_memory=pinned) if launch.offload else OffloadPolicy(),
    }
    for layer in _layers(model):
        fully_shard(layer, reshard_after_forward=launch.reshard, **options)
    fully_shard(model, **options)
    if not team.main:
        model.to_empty(device="cpu" if launch.offload else team.device)
    sent = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=launch.offload)
    set_model_state_dict(model, whole, options=sent)
    _send_buffers(model, team)
    left = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
    if left:
        raise RuntimeError(f"FSDP left {len(left)} weights whole, the first: {left[0]}")
    return model


def place(model: Any, team: Processes) -> Any:
    """Put the model, or what of it is no shared part, on this process's device: parts may lie elsewhere, offloaded."""
    if not team.sharded:
        return model.to(team.device)
    for parameter in model.parameters():
        if not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(team.device)
    return model


def device_of(model: nn.Module, team: Processes) -> torch.device:
    """Where the model takes its inputs."""
    return team.device if team.sharded else next(model.parameters()).device


def _layers(model: Any) -> list[nn.Module]:
    """The blocks that a model is a stack of, as transformers names them."""
    kinds = model._no_split_modules or ()
    found = [module for module in model.modules() if type(module).__name__ in kinds]
    if not found:
        raise RuntimeError(f"FSDP: {type(model).__name__} does not say which of its modules are layers")
    return found


def _send_buffers(model: nn.Module, team: Processes) -> None:
    """Rotary frequencies and the like, which no state dict holds: small, and of the main process's type."""
    places = [(module, name, own) for module in model.modules() for name, own in module.named_buffers(recurse=False)]
    values = team.from_main([own.cpu() if team.main else None for _, _, own in places])
    for (module, name, _), value in zip(places, values, strict=True):
        module._buffers[name] = value.to(team.device)
