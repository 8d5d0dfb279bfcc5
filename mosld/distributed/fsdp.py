"""FSDP2: each process keeps a shard of every layer, and a layer is gathered only while it runs.

With an adapter, the base is sharded before the adapter is added. The adapter stays whole in every process, in float32:
it is small, and its gradients, optimizer, checkpoints and files are those of a run without FSDP. FSDP then sees only
frozen weights and exchanges no gradient. In full fine-tuning gradients and optimizer state are sharded like the
weights, and FSDP sums a layer's gradients as soon as its backward pass is done.

Only the main process reads the weights. The others build the model on the meta device and receive their shards.
"""

import copy
from functools import partial
from typing import TYPE_CHECKING, TypeVar

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
from mosld.distributed.processes import Processes, broadcast_buffers
from mosld.distributed.zero import is_partitioned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def shard(model: "PreTrainedModel", group: Processes, launch: Launch) -> "PreTrainedModel":
    """Shard the model over the processes, in place.

    Args:
        model: whole in the main process, on the meta device in the others.
        group: the processes of this run.
        launch: what the launcher asked for.

    Raises:
        RuntimeError: FSDP left a weight whole.
    """
    model.requires_grad_(False)
    state = model.state_dict() if group.main else {}
    _apply_fsdp(model, group, launch)
    if not group.main:
        model.to_empty(device=_shard_device(group, launch))
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=launch.offload)
    set_model_state_dict(model, state, options=options)
    broadcast_buffers(model, group)
    whole = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
    if whole:
        raise RuntimeError(f"FSDP left {len(whole)} weights whole, the first: {whole[0]}")
    return model


def cast_sharded(
    model: "PreTrainedModel",
    group: Processes,
    launch: Launch,
    dtype: torch.dtype,
    autocast_dtype: torch.dtype | None,
) -> "PreTrainedModel":
    """A copy of a sharded model in another dtype, sharded alike; only shards are copied.

    FSDP fixes the dtype when a model first runs, so this makes a new model.

    Args:
        model: the sharded model; its shards are freed with it.
        group: the processes of this run.
        launch: what the launcher asked for.
        dtype: of the new weights, which train.
        autocast_dtype: dtype of matrix products under autocast; layers are gathered in it, at half the bytes of
            float32.
    """
    with torch.device("meta"):
        cast = AutoModelForCausalLM.from_config(
            copy.deepcopy(model.config), dtype=dtype, attn_implementation=model.config._attn_implementation
        )
    cast.config.dtype = model.config.dtype
    cast.generation_config = model.generation_config
    _apply_fsdp(cast, group, launch, autocast_dtype)
    cast.to_empty(device=_shard_device(group, launch))
    with torch.no_grad():
        for new, old in zip(cast.parameters(), model.parameters(), strict=True):
            assert isinstance(new, DTensor)
            assert isinstance(old, DTensor)
            new.to_local().copy_(old.to_local())
    # Buffers keep their dtype.
    for module, source in zip(cast.modules(), model.modules(), strict=True):
        module._buffers.update(source._buffers)
    return cast.train(model.training)


def _apply_fsdp(
    model: "PreTrainedModel", group: Processes, launch: Launch, autocast_dtype: torch.dtype | None = None
) -> None:
    """Shard each layer by itself, then the rest; gradients are summed, not averaged."""
    offload = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if launch.offload else OffloadPolicy()
    fsdp = partial(fully_shard, mesh=init_device_mesh(group.device.type, (group.count,)), offload_policy=offload)
    precision = MixedPrecisionPolicy()
    if autocast_dtype:
        precision = MixedPrecisionPolicy(autocast_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in _layers(model):
        if autocast_dtype:
            # Norms stay in float32 under autocast. If linear layers stayed there too, autocast would keep a cast copy
            # of each weight until backward: over all layers that is the whole model.
            fsdp(_modules_but_linear(layer), reshard_after_forward=launch.reshard)
        fsdp(layer, reshard_after_forward=launch.reshard, mp_policy=precision)
    fsdp(model)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)


def reshard(model: nn.Module) -> None:
    """Free the layers that are still gathered after a forward pass without backward."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def move_to_device(model: ModuleT, group: Processes) -> ModuleT:
    """Move the model to this process's device; shards stay where they are, as they may be offloaded."""
    if not launch().sharded_base:
        return model.to(group.device)
    for parameter in model.parameters():
        if not isinstance(parameter, DTensor) and not is_partitioned(parameter):
            parameter.data = parameter.data.to(group.device)
    return model


def input_device(model: nn.Module, group: Processes) -> torch.device:
    """The device of the model's inputs."""
    return group.device if group.sharded else next(model.parameters()).device


def _shard_device(group: Processes, launch: Launch) -> torch.device:
    return torch.device("cpu") if launch.offload else group.device


def _layers(model: "PreTrainedModel") -> list[nn.Module]:
    """The decoder layers, by the class names that transformers lists."""
    class_names = model._no_split_modules or ()
    layers = [module for module in model.modules() if type(module).__name__ in class_names]
    if not layers:
        raise RuntimeError(f"FSDP: {type(model).__name__} does not say which of its modules are layers")
    return layers


def _modules_but_linear(layer: nn.Module) -> list[nn.Module]:
    """The modules of a layer that own weights and are not linear layers."""
    owners = (module for module in layer.modules() if any(True for _ in module.parameters(recurse=False)))
    return [module for module in owners if not isinstance(module, nn.Linear)]
