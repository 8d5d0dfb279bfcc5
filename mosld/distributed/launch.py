"""What the launcher asked for, read from the environment that torchrun and `accelerate launch` set.

mosld implements data parallel, FSDP2 and DeepSpeed's ZeRO itself. Anything else in an accelerate file is refused here,
before anything heavy is imported: a run never silently does something else.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec

from mosld.common.errors import UserError
from mosld.config.schema import Config, ModelConfig, TrainingConfig

TRUE_WORDS = ("1", "true", "yes")
# Options of DeepSpeed in an accelerate file that mosld does by its own keys: the harmless value, and what to use.
DEEPSPEED_OPTIONS = {
    "gradient_accumulation_steps": ("1", "training.batch_size and training.micro_batch_size"),
    "gradient_clipping": ("none", "training.max_grad_norm"),
    "deepspeed_offload_optimizer_device": ("none", "conf/accelerate/fsdp_offload.yaml"),
    "deepspeed_offload_param_device": ("none", "conf/accelerate/fsdp_offload.yaml"),
    "deepspeed_config_file": ("none", "the keys of conf/accelerate/deepspeed_zero3.yaml"),
}
ENGINE_DESCRIPTIONS = {
    "single": "the whole model (data parallel)",
    "ddp": "the whole model (data parallel)",
    "fsdp": "a shard of the base (FSDP2)",
    "zero2": "the whole model and a shard of the optimizer (DeepSpeed ZeRO-2)",
    "zero3": "a shard of the base (DeepSpeed ZeRO-3)",
}


@dataclass(frozen=True)
class Launch:
    """How the processes of a run share the work.

    Attributes:
        count: number of processes.
        engine: "single"; "ddp": each holds the whole model; "fsdp": each holds a shard of the base; DeepSpeed's
            "zero2": each updates a shard of the trained weights; "zero3": each also holds a shard of the base.
        offload: shards stay in CPU memory between passes, and trained shards are updated there.
        reshard: a layer is freed after its forward pass and gathered again for backward.
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
        """Whether each process holds only a shard of the base."""
        return self.engine in ("fsdp", "zero3")

    @property
    def sharded(self) -> bool:
        """Whether all processes must run the model at the same time."""
        return self.sharded_base or self.zero

    def describe(self) -> str:
        """One line for the user."""
        offloaded = ", offloaded between passes" if self.offload else ""
        return f"{self.count} processes, each with {ENGINE_DESCRIPTIONS[self.engine]}{offloaded}"


def launch() -> Launch:
    """The launch that the environment describes; `require_launch` checks it."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if _is_on("ACCELERATE_USE_DEEPSPEED"):
        return Launch(count, f"zero{_zero_stage()}")
    if not _is_on("ACCELERATE_USE_FSDP"):
        return Launch(count, "ddp" if count > 1 else "single")
    return Launch(count, "fsdp", _is_on("FSDP_OFFLOAD_PARAMS"), _is_on("FSDP_RESHARD_AFTER_FORWARD", "true"))


def require_launch(config: Config) -> None:
    """Check that the launcher's requests and the config work together.

    Raises:
        UserError: with one message for each that does not.
    """
    errors = [
        *_missing_processes(),
        *_unsupported_launch(),
        *_unsupported_keys(config.model, config.training),
        *missing_packages(config.model, config.training),
    ]
    if errors:
        raise UserError(*errors)


def missing_packages(model: ModelConfig, training: TrainingConfig | None = None) -> list[str]:
    """A message for each key of the config that needs a package which is not installed."""
    needing = [f"model.quantize={model.quantize}"] if model.quantize else []
    if training and training.optimizer == "adamw_8bit":
        needing.append("training.optimizer=adamw_8bit")
    if find_spec("bitsandbytes"):
        return []
    return [f"{key}: needs bitsandbytes; pip install 'mosld[quant]'." for key in needing]


def _missing_processes() -> list[str]:
    environment = os.environ
    # accelerate's launcher of one process sets an address for the others that it was asked for, and starts none.
    if {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= environment.keys() and "WORLD_SIZE" not in environment:
        return [
            "accelerate launch: several processes were asked for and one was started (--cpu does this); name a file, "
            "as in --config_file conf/accelerate/ddp.yaml, or use torchrun."
        ]
    single = environment.get("WORLD_SIZE", "1") == "1"
    # One process can offload its shards to CPU memory.
    offloaded = _is_on("FSDP_OFFLOAD_PARAMS") and "RANK" in environment
    if _is_on("ACCELERATE_USE_FSDP") and single and not offloaded:
        return ["FSDP: shards a model over processes, and there is one; set num_processes, or leave FSDP out."]
    if _is_on("ACCELERATE_USE_DEEPSPEED") and single:
        return ["DeepSpeed: shards a model over processes, and there is one; set num_processes, or use single.yaml."]
    return []


def _unsupported_launch() -> list[str]:
    """Requests of an accelerate file that mosld does not follow, or has a key of its own for."""
    errors = []
    if _is_on("ACCELERATE_USE_MEGATRON_LM") or _is_on("ACCELERATE_USE_PARALLELISM_CONFIG"):
        errors.append("accelerate: Megatron-LM and parallelism_config are not followed; use conf/accelerate/fsdp.yaml.")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        errors.append(f"mixed_precision={precision}: is not followed; set it to no, and choose model.dtype.")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO":
        errors.append("dynamo_backend: is not followed; set it to no, and use training.compile.")
    if _is_on("ACCELERATE_USE_FSDP"):
        errors += _unsupported_fsdp()
    if _is_on("ACCELERATE_USE_DEEPSPEED"):
        errors += _unsupported_deepspeed()
    return errors


def _unsupported_fsdp() -> list[str]:
    errors = []
    if os.environ.get("FSDP_VERSION", "1") != "2":
        errors.append("fsdp_version=1: is not followed; set fsdp_version: 2.")
    if _is_on("FSDP_ACTIVATION_CHECKPOINTING") or _is_on("FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD"):
        errors.append("fsdp_activation_checkpointing: is not followed; use training.gradient_checkpointing=true.")
    policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    if policy != "TRANSFORMER_BASED_WRAP":
        errors.append(f"fsdp_auto_wrap_policy={policy}: is not followed; layers are sharded by TRANSFORMER_BASED_WRAP.")
    return errors


def _unsupported_deepspeed() -> list[str]:
    errors = []
    if not find_spec("deepspeed"):
        errors.append("DeepSpeed: is not installed; pip install 'mosld[deepspeed]', or use conf/accelerate/fsdp.yaml.")
    if _zero_stage() not in ("2", "3"):
        errors.append(f"zero_stage={_zero_stage()}: is not followed; set 2 or 3, or use conf/accelerate/ddp.yaml.")
    for name, (harmless, instead) in DEEPSPEED_OPTIONS.items():
        asked = os.environ.get(f"ACCELERATE_{name.upper()}", harmless)
        if asked.lower() not in (harmless, "none", "auto"):
            key = name.removeprefix("deepspeed_")
            errors.append(f"{key}={asked}: is not followed; leave it out, and use {instead}.")
    return errors


def _zero_stage() -> str:
    return os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")


def _unsupported_keys(model: ModelConfig, training: TrainingConfig) -> list[str]:
    """Keys that do not work with a sharded model."""
    if not launch().sharded:
        return []
    engine = "DeepSpeed" if launch().zero else "FSDP"
    errors = []
    if model.quantize:
        errors.append(
            f"model.quantize={model.quantize}: quantized weights cannot be sharded by {engine}; use ddp.yaml, or "
            "leave one of the two out."
        )
    if training.micro_batch_size == "auto":
        errors.append(
            "training.micro_batch_size=auto: a process that runs out of memory leaves the others waiting with "
            f"{engine}; give a number."
        )
    if training.optimizer == "adamw_8bit":
        errors.append(
            f"training.optimizer=adamw_8bit: its state cannot be sharded by {engine}, which divides it over the "
            "processes anyway; use training.optimizer=adamw, or ddp.yaml."
        )
    if training.compile:
        errors.append(f"training.compile=true: does not work with {engine}; use ddp.yaml, or leave one of the two out.")
    return errors


def _is_on(name: str, default: str = "false") -> bool:
    return os.environ.get(name, default).lower() in TRUE_WORDS
