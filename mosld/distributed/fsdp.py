"""FSDP2: each process keeps a part of every layer, and a layer is whole only while it runs.

With an adapter the base is shared before the adapter is put on it, so the adapter stays whole in every process, in
float32: it is small, and its gradients, optimiser, checkpoints and files are those of a run with whole models. FSDP
then sees frozen weights alone and has no gradient to exchange. Where the whole model trains, gradients and optimiser
lie in the same parts as its weights: FSDP adds a layer's gradients up as soon as its backward pass is done.

Only the main process reads the weights. The others build the model without any and are sent their parts.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from mosld.distributed.launch import Launch, launch
from mosld.distributed.processes import Processes
from mosld.distributed.zero import is_shared


def shard(model: Any, group: Processes, launch: Launch) -> Any:
    """Share the model among the processes, in place.

    Args:
        model: whole in the main process, on the meta device in the others.
        group: the processes of this run.
        launch: what the launcher asked for.

    Raises:
        RuntimeError: a weight stayed whole; nothing has been trained then.
    """
    model.requires_grad_(False)
    whole = model.state_dict() if group.main else {}
    _divide(model, group, launch)
    if not group.main:
        model.to_empty(device=_home(group, launch))
    sent = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=launch.offload)
    set_model_state_dict(model, whole, options=sent)
    _send_buffers(model, group)
    left = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
    if left:
        raise RuntimeError(f"FSDP left {len(left)} weights whole, the first: {left[0]}")
    return model


def recast(
    model: Any, group: Processes, launch: Launch, dtype: torch.dtype, products: torch.dtype | None = None
) -> Any:
    """A shared model again, shared alike, with its weights in another type; only parts are copied.

    FSDP settles on a type when a model first runs, so this is a new model.

    Args:
        model: shared; its own parts are let go.
        group: the processes of this run.
        launch: what the launcher asked for.
        dtype: of the new weights, which train.
        products: type of the products under autocast: layers then travel in it, at half the bytes of float32.
    """
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(
            copy.deepcopy(model.config), dtype=dtype, attn_implementation=model.config._attn_implementation
        )
    fresh.config.dtype, fresh.generation_config = model.config.dtype, model.generation_config
    _divide(fresh, group, launch, products)
    fresh.to_empty(device=_home(group, launch))
    with torch.no_grad():
        for new, old in zip(fresh.parameters(), model.parameters(), strict=True):
            new.to_local().copy_(old.to_local())
    for module, source in zip(fresh.modules(), model.modules(), strict=True):
        module._buffers.update(source._buffers)  # they keep their type
    return fresh.train(model.training)


def _divide(model: Any, group: Processes, launch: Launch, products: torch.dtype | None = None) -> None:
    """Mark what is shared: each layer by itself, and the rest; gradients are added up and not averaged."""
    options: dict[str, Any] = {
        "mesh": init_device_mesh(group.device.type, (group.count,)),
        "offload_policy": CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if launch.offload else OffloadPolicy(),
    }
    travelling = MixedPrecisionPolicy(products, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in _layers(model):
        if products:
            # What autocast leaves in float32: norms. Cast by autocast, a linear layer's weight would be kept until
            # backward, and of all layers that is the whole model.
            fully_shard(_not_linear(layer), reshard_after_forward=launch.reshard, **options)
        policy: dict[str, Any] = {"mp_policy": travelling} if products else {}
        fully_shard(layer, reshard_after_forward=launch.reshard, **policy, **options)
    fully_shard(model, **options)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)


def rest(model: nn.Module) -> None:
    """Take apart what is still whole after a forward pass without a backward one, so that all weights are parts."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def place(model: Any, group: Processes) -> Any:
    """Put the model, or what of it is no shared part, on this process's device: parts may lie elsewhere, offloaded."""
    if not launch().sharded_base:
        return model.to(group.device)
    for parameter in model.parameters():
        if not isinstance(parameter, DTensor) and not is_shared(parameter):
            parameter.data = parameter.data.to(group.device)
    return model


def device_of(model: nn.Module, group: Processes) -> torch.device:
    """Where the model takes its inputs."""
    return group.device if group.sharded else next(model.parameters()).device


def _home(group: Processes, launch: Launch) -> torch.device:
    """Where a process keeps its parts."""
    return torch.device("cpu") if launch.offload else group.device


def _layers(model: Any) -> list[nn.Module]:
    """The blocks that a model is a stack of, as transformers names them."""
    kinds = model._no_split_modules or ()
    found = [module for module in model.modules() if type(module).__name__ in kinds]
    if not found:
        raise RuntimeError(f"FSDP: {type(model).__name__} does not say which of its modules are layers")
    return found


def _not_linear(layer: nn.Module) -> list[nn.Module]:
    """The modules of a layer that have weights of their own and are no linear layers."""
    owners = (module for module in layer.modules() if any(True for _ in module.parameters(recurse=False)))
    return [module for module in owners if not isinstance(module, nn.Linear)]


def _send_buffers(model: nn.Module, group: Processes) -> None:
    """Rotary frequencies and the like, which no state dict holds: small, and of the main process's type."""
    places = [(module, name, own) for module in model.modules() for name, own in module.named_buffers(recurse=False)]
    values = group.broadcast([own.cpu() if group.main else None for _, _, own in places])
    for (module, name, _), value in zip(places, values, strict=True):
        module._buffers[name] = value.to(group.device)
