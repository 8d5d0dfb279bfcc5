"""The typed schema of the whole config: one dataclass a group, one `setting` a key.

Nothing heavy is imported here: `--help` and every refusal must come in well under two seconds.
"""

from dataclasses import dataclass
from typing import Any

from mosld.config.data import DataConfig, SourceConfig
from mosld.config.method import AllocationConfig, MethodConfig
from mosld.config.setting import setting

PROMPTS = ("letter", "list", "cloze")
MAPS = ("model.shape", "method.experts_from", "data.weights", "data.columns")  # keys that take a map


@dataclass(frozen=True)
class ModelConfig:
    """The base model: where its weights come from and what its shape is."""

    name: str = setting("", "Name in tables and run directories; a model of other weights has another name.")
    kind: str = setting("hub", "Where the weights come from.", choices=("embedded", "hub", "random"))
    hub: str | None = setting(None, "Repository on the Hugging Face Hub.")
    revision: str | None = setting(None, "Commit of that repository: pinned, so that results can be repeated.")
    path: str | None = setting(None, "A local checkpoint directory, used in place of the named weights.")
    dtype: str = setting(
        "auto",
        "Type of the frozen weights; auto: bfloat16 where the processor multiplies it natively.",
        choices=("auto", "float32", "bfloat16"),
    )
    quantize: str | None = setting(
        None,
        "Pack the frozen linear layers into 4 or 8 bits (bitsandbytes); null: not.",
        choices=("nf4", "int8"),
    )
    attention: str = setting(
        "auto",
        "Attention kernel; auto: sdpa on an accelerator; on a processor eager, but sdpa in long passes of scoring.",
        choices=("auto", "eager", "sdpa"),
    )
    prompt: str = setting("letter", "The prompt format where `prompt` is null.", choices=PROMPTS, affects_results=False)
    score_base: bool = setting(
        False, "Whether to score the untrained model where `evaluation.base` is null.", affects_results=False
    )
    architecture: str = setting("llama", "Model type in transformers, for building the shape without weights.")
    shape: dict[str, Any] = setting({}, "Keys of that model type's transformers config.")


@dataclass(frozen=True)
class TrainingConfig:
    """The optimiser, the batches, and what is kept."""

    name: str = setting("", "Name of the recipe.", affects_results=False)
    epochs: int = setting(3, "Passes over the train rows.", minimum=1)
    max_steps: int | None = setting(None, "Stop after this many optimiser steps.", minimum=1)
    batch_size: int = setting(8, "Rows per optimiser step, over all processes.", minimum=1)
    micro_batch_size: int | str = setting(
        8, "Most rows per forward pass of one process; auto: as many as fit in memory.", minimum=1, choices=("auto",)
    )
    learning_rate: float = setting(3e-3, "Peak learning rate of AdamW.", minimum=0)
    warmup: float = setting(0.06, "Share of the steps in which the learning rate rises.", minimum=0, below=1)
    weight_decay: float = setting(0.0, "AdamW's decoupled weight decay.", minimum=0)
    max_grad_norm: float | None = setting(1.0, "Gradients are clipped to this norm; null: not at all.", minimum=0)
    gradient_checkpointing: bool = setting(False, "Recompute activations in backward: less memory, more time.")
    compile: bool = setting(False, "Compile the decoder layers (torch.compile): minutes at the start, faster steps.")
    validate_every: int | None = setting(None, "Optimiser steps between validations; null: once an epoch.", minimum=1)
    checkpoint_every: int = setting(100, "Optimiser steps between checkpoints.", minimum=1, affects_results=False)
    keep_last: int = setting(2, "Checkpoints kept beside the best one.", minimum=1, affects_results=False)
    resume: str = setting(
        "auto",
        "auto: go on from the newest whole checkpoint; never: start anew; force: go on with another config or data.",
        choices=("auto", "never", "force"),
        affects_results=False,
    )


@dataclass(frozen=True)
class EvaluationConfig:
    """What is scored, and in which batches."""

    base: bool | None = setting(
        None, "Also score the untrained model; null: as the model's config says.", affects_results=False
    )
    limit: int | None = setting(None, "Test items per task; the same items for every run.", minimum=1)
    shots: int = setting(0, "Solved examples of its subject before each question of mmlu, as in 5.", minimum=0)
    validation_limit: int = setting(16, "Validation items per task.", minimum=1)
    batch_tokens: int = setting(1024, "Padded tokens per forward pass; of a generation: of its prompts.", minimum=1)
    max_new_tokens: int = setting(256, "Longest generated answer, in tokens; one that is not done is cut.", minimum=1)


@dataclass(frozen=True)
class LoggerConfig:
    """Where measurements go besides the run directory."""

    name: str = setting("files", "Kind of logger.", choices=("files", "wandb"), affects_results=False)
    every: int = setting(1, "Optimiser steps between lines of metrics.jsonl.", minimum=1, affects_results=False)
    mode: str = setting(
        "auto",
        "W&B: auto is online where a key is configured, else offline.",
        choices=("auto", "online", "offline"),
        affects_results=False,
    )
    project: str = setting("mosld", "W&B project.", affects_results=False)
    entity: str | None = setting(None, "W&B team or user.", affects_results=False)
    group: str | None = setting(None, "W&B group; null: <data>-<model>, or the sweep.", affects_results=False)
    job_type: str = setting("train", "W&B job type.", affects_results=False)
    artifact: bool = setting(False, "W&B: also send the trained adapter, as an artifact.", affects_results=False)


@dataclass(frozen=True)
class HubConfig:
    """Whether the trained adapter or model is also pushed to the Hugging Face Hub."""

    push_to: str | None = setting(
        None, "Repository to push to at the end, as in me/my-adapter; null: none.", affects_results=False
    )
    private: bool = setting(True, "Whether a repository made for it is private.", affects_results=False)


@dataclass(frozen=True)
class Config:
    """One run: everything that `config.yaml` in its directory records."""

    seed: int = setting(0, "Seed of initial weights, dropout and data order.", minimum=0, below=2**32)
    output_dir: str | None = setting(
        None,
        "The run directory itself, in place of outputs/<data>/<model>/<method>-...",
        affects_results=False,
    )
    check: bool = setting(
        False,
        "Check config and data, run the longest batch forward and backward, and stop.",
        affects_results=False,
    )
    prompt: str | None = setting(None, "Prompt format; null: the model's.", choices=PROMPTS)
    model: ModelConfig = ModelConfig()
    method: MethodConfig = MethodConfig()
    allocation: AllocationConfig = AllocationConfig()
    data: DataConfig = DataConfig()
    source: SourceConfig = SourceConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    logger: LoggerConfig = LoggerConfig()
    hub: HubConfig = HubConfig()
