"""DeepSpeed's ZeRO: optimiser and gradients in parts (stage 2), and weights, too (stage 3).

At stage 3 the base is sharded before an adapter is added, and a layer is gathered only while it runs. The adapter stays
whole in every process, as under FSDP2. Full fine-tuning also shards the optimiser (training/zero_engine.py).

DeepSpeed is an extra, loaded only where a launcher asks for it. No kernel of it is compiled.
"""

import logging
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from mosld.distributed.launch import launch
from mosld.distributed.processes import Processes

ENGINE = "_mosld_zero"  # where a model keeps the engine whose hooks put its layers together


@cache
def library() -> Any:
    """DeepSpeed itself, without its own messages."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed
    import deepspeed.ops

    for logger in (deepspeed.utils.logger, *deepspeed.utils.logger.handlers):
        logger.setLevel(logging.ERROR)
    # It would compile an exchange by shared memory, which only inference uses, at the start of a run on a processor.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed|deepspeed")
    return deepspeed


def settings(model: Any) -> dict[str, Any]:
    """DeepSpeed's own config. What the training group decides (batches, clipping, types) is left out of its hands."""
    small = 10 * getattr(getattr(model, "config", None), "hidden_size", 1000)
    return {
        "train_micro_batch_size_per_gpu": 1,  # it is not asked to make batches
        "managed_gradient_accumulation": False,  # a step has as many micro-batches as its rows need
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": int(launch().engine[-1]),
            "stage3_param_persistence_threshold": small,  # norms and such stay whole: less to fetch
        },
    }


def start(model: Any, optimizer: Any = None) -> Any:
    """DeepSpeed's engine around a model: without an optimiser it only puts layers together (stage 3)."""
    stop(model)
    engine, *_ = library().initialize(model=model, optimizer=optimizer, config=settings(model))
    return engine


def stop(model: Any) -> None:
    """Take the hooks of the engine that puts the model's layers together away, if it has one."""
    for module in model.modules():
        engine = module.__dict__.pop(ENGINE, None)
        if engine is not None:
            engine.destroy()


def serve(model: Any) -> Any:
    """Let a shared model run without being trained."""
    engine = start(model)
    model.__dict__[ENGINE] = engine
    return model


def partition(model: Any, group: Processes) -> Any:
    """Share the model among the processes, in place (stage 3), ready to run.

    Args:
        model: whole in the processor's memory of the main process, on the meta device in the others.
        group: the processes of this run.
    """
    if not group.main:
        model.to_empty(device="cpu")  # memory that is never touched: each weight is sent, then cut to this one's part
        model.tie_weights()
    model.requires_grad_(False)
    library().zero.Init(module=model, config_dict_or_path=settings(model))
    _send_buffers(model, group)
    return serve(model)


def is_shared(tensor: Tensor) -> bool:
    """Whether DeepSpeed holds a part of the weight in each process."""
    return hasattr(tensor, "ds_id")


def whole(parameter: Tensor) -> Tensor:
    """A copy of a shared weight, in every process."""
    with library().zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def recast(model: Any, group: Processes, dtype: torch.dtype) -> Any:
    """A shared model again, shared alike, with its weights in another type.

    DeepSpeed shares a whole model alone: the main process holds it in the processor's memory meanwhile.
    """
    stop(model)
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(
            model.config, dtype=dtype, attn_implementation=model.config._attn_implementation
        )
    kind, fresh.generation_config = model.config.dtype, model.generation_config
    values = {id(own): whole(own).to("cpu", dtype) if group.main else whole(own)[:0] for own in model.parameters()}
    if group.main:
        named = {name: values[id(own)] for name, own in model.named_parameters(remove_duplicate=False)}
        fresh.load_state_dict(named, strict=False, assign=True)
        fresh.tie_weights()
    for module, source in zip(fresh.modules(), model.modules(), strict=True):
        module._buffers.update(source._buffers)  # they keep their type
    fresh.config.dtype = kind
    training = any(own.requires_grad for own in model.parameters())
    return partition(fresh, group).train(model.training).requires_grad_(training)


def _send_buffers(model: nn.Module, group: Processes) -> None:
    """Rotary frequencies and the like, which DeepSpeed leaves alone."""
    for module in model.modules():
        for name, own in module.named_buffers(recurse=False):
            module._buffers[name] = group.broadcast(own.cpu() if group.main else None).to(group.device)
