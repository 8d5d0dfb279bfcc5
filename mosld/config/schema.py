"""The typed schema of the whole config: one dataclass a group, one `setting` a key.

Nothing heavy is imported here: `--help` and every refusal must come in well under two seconds.
"""

from dataclasses import dataclass
from typing import Any

from mosld.config.fields import setting

# PART: The typed schema of the data: which tasks, and where their rows come from.


TASKS = ("obqa", "csqa", "race", "mctest", "arc_e", "arc_c", "gsm8k", "openorca", "mmlu")


@dataclass(frozen=True)
class DataConfig:
    """What is trained and tested on."""

    name: str = setting("", "Name in tables and run directories; single_<task> is that task alone.")
    kind: str = setting(
        "benchmarks",
        "benchmarks: the tasks that mosld knows; own: the files below source.root, read with data.columns.",
        choices=("benchmarks", "own"),
    )
    tasks: list[str] = setting([], f"Tasks, of {' '.join(TASKS)}; of your own files: [] is all below source.root.")
    limit: int | None = setting(None, "Train rows per task; the same rows for every seed.", minimum=1)
    n_openorca: int | None = setting(
        None, "Train rows of openorca, the same ones for every seed; the paper: 1375 to 22000.", minimum=1
    )
    cutoff: int | None = setting(
        None, "Longest row in tokens; null: the task's own (256 or 512; 512 for your own files).", minimum=16
    )
    split_policy: str = setting(
        "official",
        "official: the published splits; paper: train and validation together, a tenth of them as the validation.",
        choices=("official", "paper"),
    )
    drop_leaks: bool = setting(False, "Whether train rows that also stand in a test are left out of training.")
    mixing: str = setting(
        "concatenate",
        "How tasks are mixed: all rows, shares by data.weights, evened out by data.temperature, at most data.cap each.",
        choices=("concatenate", "weights", "temperature", "cap"),
    )
    weights: dict[str, Any] = setting({}, "Mixing weights: each task's share of an epoch, as in {obqa: 2, csqa: 1}.")
    temperature: float = setting(
        1.0, "Mixing temperature: rows ^ (1 / T) is a task's share; 1 as they are, more: evener.", minimum=0.01
    )
    cap: int | None = setting(None, "Mixing cap: most rows that a task gives to an epoch.", minimum=1)
    columns: dict[str, Any] = setting(
        {}, "Your columns by mosld's names, as in {question: q, choices: options, answer: label}; or so by task."
    )
    answer_as: str = setting(
        "auto",
        "How your answers name a choice; auto: seen from the rows; index is from 0, number from 1.",
        choices=("auto", "index", "number", "letter", "text"),
    )
    holdout: float = setting(
        0.1, "Share of your train rows set aside where there is no validation file, and as much for a test.",
        minimum=0.001, below=0.5,
    )  # fmt: skip
    score_replies: bool = setting(
        True, "Whether replies in free words are generated and scored by exact match; false: trained on alone."
    )


@dataclass(frozen=True)
class SourceConfig:
    """Where the rows come from."""

    name: str = setting("bundled", "Kind of source.", choices=("bundled", "local", "hub"))
    root: str | None = setting(
        None, "Directory with <task>/{train,validation,test}.jsonl; of data=local also csv, parquet, or one file."
    )
    on_bad_row: str = setting(
        "error",
        "error: list every bad row and stop; skip: leave them out and say so.",
        choices=("error", "skip"),
    )


# PART: The typed schema of a method, the composition of an adapter's parts, and of the experts per layer.


@dataclass(frozen=True)
class MethodConfig:
    """How the base model is adapted: a composition of parts (docs/reference/methods.md)."""

    name: str = setting("", "Name in tables and run directories.")
    kind: str = setting("mixture", "Which builder reads the keys below.", choices=("mixture", "lora", "prefix", "full"))
    rank: int = setting(8, "Rank r of each expert.", minimum=1)
    alpha: float = setting(16.0, "The update is scaled by alpha / rank.", minimum=0)
    share: str | None = setting("A", "The projection that all experts of a module share.", choices=("A", "B", "none"))
    targets: str = setting(
        "qv",
        "Which layers are adapted; block: the feed-forward block as a whole, with one router.",
        choices=("qv", "attention", "ffn", "all", "block"),
    )
    plain_targets: str = setting(
        "none", "Layers that get a single LoRA beside the mixture.", choices=("none", "qv", "attention", "ffn")
    )
    experts: int | list[int] | None = setting(
        None, "Experts of a method with a number of its own; null: the allocation's.", minimum=1
    )
    init: str = setting(
        "kaiming",
        "How A starts: uniform as PEFT's LoRA, or Gaussian of deviation 1/rank or .02.",
        choices=("kaiming", "gaussian", "normal"),
    )
    dropout: float = setting(0.0, "Ratio of what is dropped in training.", minimum=0, below=1)
    dropout_on: str = setting(
        "none", "What is dropped: elements of A, of the B_i, of the input x.", choices=("A", "B", "x", "none")
    )
    router: str | None = setting(
        "topk",
        "How gates come from the softmax; domain: one expert per sequence, supervised by its task (MoA).",
        choices=("topk", "dense", "capacity", "domain"),
    )
    router_init: str = setting("kaiming", "How the router starts.", choices=("kaiming", "normal"))
    top_k: int | None = setting(2, "Experts that each token takes; null: all.", minimum=1)
    capacity_factor: float = setting(
        1.25, "Router capacity: slots of an expert relative to an even load.", minimum=0.01
    )
    gate_dropout: float = setting(
        0.0, "Router capacity: ratio of probabilities dropped before the choice, in training.", minimum=0, below=1
    )
    balance: str = setting(
        "switch",
        "Formula of the load-balancing loss.",
        choices=("switch", "paper_literal", "sira", "none"),
    )
    balance_weight: float = setting(0.01, "Weight of the load-balancing loss.", minimum=0)
    virtual_tokens: int = setting(30, "Prefix: learned keys and values before every layer.", minimum=1)
    own_learning_rate: float | None = setting(
        None, "The method's own peak rate; training.learning_rate goes before.", minimum=0, affects_results=False
    )
    domains: list[str] | None = setting(None, "Router domain: name of each expert; null: the data's tasks.")
    pool: str = setting("mean", "Router domain: which prompt states the router sees.", choices=("mean", "last"))
    inference: str = setting(
        "per_layer",
        "Router domain: each layer's arg-max, the expert most layers name, or all by their probabilities.",
        choices=("per_layer", "vote", "soft"),
    )
    router_weight: float = setting(1.0, "Router domain: weight of the router's cross entropy.", minimum=0)
    train_experts: bool = setting(True, "Router domain: whether the experts go on training in stage 2.")
    experts_from: dict[str, str] = setting({}, "Router domain: ready LoRA adapters by task, in place of stage 1.")
    from_run: str | None = setting(None, "Router domain: a finished run to which add_task is added.")
    add_task: str | None = setting(None, "Router domain: the task that becomes a new expert of from_run.")


@dataclass(frozen=True)
class AllocationConfig:
    """Experts per layer."""

    name: str = setting("", "Name of the shape.", affects_results=False)
    experts: int | list[int] = setting(
        5,
        "Experts per module: one number, or a list stretched over the depth from the first layer.",
        minimum=1,
    )


# PART: The typed schema of the whole config: one dataclass a group, one `setting` a key. Nothing heavy is imported
# here: `--help` and every refusal must come in well under two seconds.


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
