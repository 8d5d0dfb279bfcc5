"""What the launcher was asked for, read from the environment that torchrun and `accelerate launch` hand down.

mosld does the work of an accelerate file itself: data parallel, FSDP2, or DeepSpeed's ZeRO. Whatever such a file asks
for beyond that is refused here, before anything heavy is imported: a run never silently does something else.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec

from mosld.common.errors import UserError
from mosld.config.schema import Config, ModelConfig

ON = ("1", "true", "yes")
# What an accelerate file can ask of DeepSpeed and mosld does by keys of its own: the harmless value, and what to use.
OURS = {
    "gradient_accumulation_steps": ("1", "training.batch_size and training.micro_batch_size"),
    "gradient_clipping": ("none", "training.max_grad_norm"),
    "deepspeed_offload_optimizer_device": ("none", "conf/accelerate/fsdp_offload.yaml"),
    "deepspeed_offload_param_device": ("none", "conf/accelerate/fsdp_offload.yaml"),
    "deepspeed_config_file": ("none", "the keys of conf/accelerate/deepspeed_zero3.yaml"),
}
EACH = {
    "fsdp": "a part of the base (FSDP2)",
    "zero2": "the whole model and a part of the optimiser (DeepSpeed ZeRO-2)",
    "zero3": "a part of the base (DeepSpeed ZeRO-3)",
}


@dataclass(frozen=True)
class Launch:
    """How the processes of a run share the work.

    Attributes:
        count: how many there are.
        engine: "single"; "ddp": each holds the whole model; "fsdp": each holds a part of the base; DeepSpeed's "zero2":
            each updates a part of what trains; "zero3": each holds a part of the base, too.
        offload: the parts stay in the processor's memory between passes; where they train, they are updated there.
        reshard: a layer is taken apart again after its forward pass, and put together once more for backward.
    """

    count: int = 1
    engine: str = "single"
    offload: bool = False
    reshard: bool = True

    @property
    def zero(self) -> bool:
        """Whether DeepSpeed takes part in training."""
        return self.engine in ("zero2", "zero3")

    @property
    def sharded_base(self) -> bool:
        """Whether each process holds a part of the base alone."""
        return self.engine in ("fsdp", "zero3")

    @property
    def sharded(self) -> bool:
        """Whether all processes must run the model at the same time."""
        return self.sharded_base or self.zero

    def describe(self) -> str:
        """One line for a person."""
        each = EACH.get(self.engine, "the whole model (data parallel)")
        return f"{self.count} processes, each with {each}{', offloaded between passes' if self.offload else ''}"


def launch() -> Launch:
    """What the environment says; `require_launch` has checked it."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if _on("ACCELERATE_USE_DEEPSPEED"):
        return Launch(count, f"zero{_stage()}")
    if not _on("ACCELERATE_USE_FSDP"):
        return Launch(count, "ddp" if count > 1 else "single")
    return Launch(count, "fsdp", _on("FSDP_OFFLOAD_PARAMS"), _on("FSDP_RESHARD_AFTER_FORWARD", "true"))


def require_launch(config: Config) -> None:
    """Check that what the launcher and the config ask for can be done here, together.

    Raises:
        UserError: with one message for each thing that cannot.
    """
    wrong = [*_started(), *_unsupported_launch(), *_unsupported_keys(config), *missing_packages(config.model)]
    if wrong:
        raise UserError(*wrong)


def missing_packages(model: ModelConfig) -> list[str]:
    """What a model's config needs and is not installed."""
    if model.quantize and not find_spec("bitsandbytes"):
        return [f"model.quantize={model.quantize}: needs bitsandbytes; pip install 'mosld[quant]'."]
    return []


def _started() -> list[str]:
    """Whether as many processes were started as were asked for."""
    environment = os.environ
    # accelerate's launcher of one process names an address for the others that it was asked for, and starts none.
    if {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= environment.keys() and "WORLD_SIZE" not in environment:
        return [
            "accelerate launch: several processes were asked for and one was started (--cpu does this); name a file, "
            "as in --config_file conf/accelerate/ddp.yaml, or use torchrun."
        ]
    alone = environment.get("WORLD_SIZE", "1") == "1" and not (_on("FSDP_OFFLOAD_PARAMS") and "RANK" in environment)
    if _on("ACCELERATE_USE_FSDP") and alone:  # with offloading there is something to share with: the processor
        return ["FSDP: shares a model among processes, and there is one; set num_processes, or leave FSDP out."]
    if _on("ACCELERATE_USE_DEEPSPEED") and int(environment.get("WORLD_SIZE", "1")) == 1:
        return ["DeepSpeed: shares a model among processes, and there is one; set num_processes, or use single.yaml."]
    return []


def _unsupported_launch() -> list[str]:
    """What an accelerate file can ask for and mosld does not do, or does by a key of its own."""
    found = []
    if _on("ACCELERATE_USE_MEGATRON_LM") or _on("ACCELERATE_USE_PARALLELISM_CONFIG"):
        found.append("accelerate: Megatron-LM and parallelism_config are not followed; use conf/accelerate/fsdp.yaml.")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        found.append(f"mixed_precision={precision}: is not followed; set it to no, and choose model.dtype.")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO":
        found.append("dynamo_backend: is not followed; set it to no, and use training.compile.")
    if _on("ACCELERATE_USE_FSDP"):
        found += _fsdp()
    if _on("ACCELERATE_USE_DEEPSPEED"):
        found += _deepspeed()
    return found


def _fsdp() -> list[str]:
    found = []
    if os.environ.get("FSDP_VERSION", "1") != "2":
        found.append("fsdp_version=1: is not followed; set fsdp_version: 2.")
    if _on("FSDP_ACTIVATION_CHECKPOINTING") or _on("FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD"):
        found.append("fsdp_activation_checkpointing: is not followed; use training.gradient_checkpointing=true.")
    policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    if policy != "TRANSFORMER_BASED_WRAP":
        found.append(f"fsdp_auto_wrap_policy={policy}: is not followed; the layers are shared, TRANSFORMER_BASED_WRAP.")
    return found


def _deepspeed() -> list[str]:
    found = []
    if not find_spec("deepspeed"):
        found.append("DeepSpeed: is not installed; pip install 'mosld[deepspeed]', or use conf/accelerate/fsdp.yaml.")
    if _stage() not in ("2", "3"):
        found.append(f"zero_stage={_stage()}: is not followed; set 2 or 3, or use conf/accelerate/ddp.yaml.")
    for name, (usual, instead) in OURS.items():
        asked = os.environ.get(f"ACCELERATE_{name.upper()}", usual)
        if asked.lower() not in (usual, "none", "auto"):
            key = name.removeprefix("deepspeed_")
            found.append(f"{key}={asked}: is not followed; leave it out, and use {instead}.")
    return found


def _stage() -> str:
    return os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")


def _unsupported_keys(config: Config) -> list[str]:
    """Keys that cannot work with a model shared among the processes."""
    found, asked = [], launch()
    if not asked.sharded:
        return []
    engine = "DeepSpeed" if asked.zero else "FSDP"
    if config.model.quantize:
        found.append(
            f"model.quantize={config.model.quantize}: packed weights cannot be shared by {engine}; use ddp.yaml, or "
            "leave one of the two out."
        )
    if config.training.micro_batch_size == "auto":
        found.append(
            "training.micro_batch_size=auto: a process that runs out of memory leaves the others waiting with "
            f"{engine}; give a number."
        )
    if config.training.compile:
        found.append(f"training.compile=true: is not done with {engine}; use ddp.yaml, or leave one of the two out.")
    return found


def _on(name: str, default: str = "false") -> bool:
    return os.environ.get(name, default).lower() in ON
