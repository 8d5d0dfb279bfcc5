"""DeepSpeed's ZeRO: optimizer state and gradients sharded (stage 2), and weights too (stage 3).

At stage 3 the base is sharded before an adapter is added, and a layer is gathered only while it runs. The adapter stays
whole in every process, as under FSDP2. Full fine-tuning also shards the optimizer (training/zero_engine.py).

DeepSpeed is an extra, loaded only where a launcher asks for it. None of its kernels is compiled.
"""

import logging
import warnings
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import AutoModelForCausalLM

from mosld.distributed.launch import launch
from mosld.distributed.processes import Processes, broadcast_buffers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The attribute in which a model keeps the engine whose hooks gather its layers.
ENGINE_ATTRIBUTE = "_mosld_zero"


@cache
def deepspeed_library() -> ModuleType:
    """DeepSpeed without its log messages."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed
    import deepspeed.ops

    for logger in (deepspeed.utils.logger, *deepspeed.utils.logger.handlers):
        logger.setLevel(logging.ERROR)
    # A run on CPU would start by compiling a shared-memory collective that only inference uses.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed|deepspeed")
    return deepspeed


def deepspeed_config(model: nn.Module) -> dict[str, object]:
    """DeepSpeed's own config. Batches, clipping and dtypes stay with the training loop."""
    persistent = 10 * getattr(getattr(model, "config", None), "hidden_size", 1000)
    return {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed makes no batches
        "managed_gradient_accumulation": False,  # a step has as many micro-batches as its rows need
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": int(launch().engine[-1]),
            "stage3_param_persistence_threshold": persistent,  # norms and the like stay whole: less to gather
        },
    }


def start_engine(model: nn.Module, optimizer: Optimizer | None = None) -> Any:  # DeepSpeed has no types
    """DeepSpeed's engine around a model; without an optimizer it only gathers layers (stage 3)."""
    stop_engine(model)
    engine, *_ = deepspeed_library().initialize(model=model, optimizer=optimizer, config=deepspeed_config(model))
    return engine


def stop_engine(model: nn.Module) -> None:
    """Remove the hooks that gather the model's layers, if there are any."""
    for module in model.modules():
        engine = module.__dict__.pop(ENGINE_ATTRIBUTE, None)
        if engine is not None:
            engine.destroy()


def start_inference(model: nn.Module) -> None:
    """Let a partitioned model run without training."""
    engine = start_engine(model)
    model.__dict__[ENGINE_ATTRIBUTE] = engine


def partition(model: "PreTrainedModel", group: Processes) -> "PreTrainedModel":
    """Shard the model over the processes, in place (stage 3), ready to run.

    Args:
        model: whole in the main process's CPU memory, on the meta device in the others.
        group: the processes of this run.
    """
    if not group.main:
        # This memory is never touched: each weight is received, then cut to this process's shard.
        model.to_empty(device="cpu")
        model.tie_weights()
    model.requires_grad_(False)
    deepspeed_library().zero.Init(module=model, config_dict_or_path=deepspeed_config(model))
    broadcast_buffers(model, group)
    start_inference(model)
    return model


def is_partitioned(tensor: Tensor) -> bool:
    """Whether DeepSpeed holds a shard of the weight in each process."""
    return hasattr(tensor, "ds_id")


def gather_partitioned(parameter: Tensor) -> Tensor:
    """A whole copy of a partitioned weight, in every process."""
    with deepspeed_library().zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def cast_partitioned(model: "PreTrainedModel", group: Processes, dtype: torch.dtype) -> "PreTrainedModel":
    """A copy of a partitioned model in another dtype, partitioned alike.

    DeepSpeed can only partition a whole model, so the main process holds one in CPU memory meanwhile.
    """
    stop_engine(model)
    with torch.device("meta"):
        cast = AutoModelForCausalLM.from_config(
            model.config, dtype=dtype, attn_implementation=model.config._attn_implementation
        )
    cast.config.dtype = model.config.dtype
    cast.generation_config = model.generation_config
    values: dict[int, Tensor] = {}
    for parameter in model.parameters():
        value = gather_partitioned(parameter)
        if group.main:
            values[id(parameter)] = value.to("cpu", dtype)
    if group.main:
        state = {name: values[id(weight)] for name, weight in model.named_parameters(remove_duplicate=False)}
        cast.load_state_dict(state, strict=False, assign=True)
        cast.tie_weights()
    # Buffers keep their dtype.
    for module, source in zip(cast.modules(), model.modules(), strict=True):
        module._buffers.update(source._buffers)
    trains = any(parameter.requires_grad for parameter in model.parameters())
    return partition(cast, group).train(model.training).requires_grad_(trains)
