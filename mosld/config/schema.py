"""The typed schema of the config: one dataclass per group, one `setting` per key.

No heavy imports here: `--help` and every refusal must come in well under two seconds.
"""

from dataclasses import dataclass

from mosld.common.files import JsonObject
from mosld.config.fields import setting
from mosld.config.method_schema import AllocationConfig, MethodConfig

TASKS = ("obqa", "csqa", "race", "mctest", "arc_e", "arc_c", "gsm8k", "openorca", "mmlu")


@dataclass(frozen=True)
class DataConfig:
    """The tasks to train and test on."""

    name: str = setting("", "Name in tables and run directories; single_<task> is that task alone.")
    kind: str = setting(
        "benchmarks",
        "benchmarks: the tasks built into mosld; own: your files below source.root, read with data.columns.",
        choices=("benchmarks", "own"),
    )
    tasks: list[str] = setting(
        [], f"Tasks, from {' '.join(TASKS)}; with your own files, [] takes all below source.root."
    )
    limit: int | None = setting(None, "Train rows per task; the same rows for every seed.", minimum=1)
    n_openorca: int | None = setting(
        None, "Train rows of openorca, the same rows for every seed; the paper takes 1375 to 22000.", minimum=1
    )
    cutoff: int | None = setting(
        None, "Longest row in tokens; null: the task's own limit (256 or 512; 512 for your own files).", minimum=16
    )
    too_long: str = setting(
        "truncate",
        "Rows longer than data.cutoff or than the model reads: truncate what can be truncated; drop them; error.",
        choices=("truncate", "drop", "error"),
        hash_default=False,
    )
    train_turns: str = setting(
        "all",
        "Of a conversation, the loss is on all of the assistant's turns, or on the last.",
        choices=("all", "last"),
        hash_default=False,
    )
    split_policy: str = setting(
        "official",
        "official: the published splits; paper: train and validation joined, a tenth of them held out as validation.",
        choices=("official", "paper"),
    )
    drop_leaks: bool = setting(
        False, "Leave rows out of train that also stand in a test, in validation, or in train before."
    )
    mixing: str = setting(
        "concatenate",
        "How tasks are mixed: all rows, by data.weights, smoothed by data.temperature, or at most data.cap rows each.",
        choices=("concatenate", "weights", "temperature", "cap"),
    )
    weights: dict[str, float] = setting({}, "Mixing weights: each task's share of an epoch, as in {obqa: 2, csqa: 1}.")
    temperature: float = setting(
        1.0,
        "Mixing temperature T: a task's share is rows ^ (1 / T); 1 keeps the sizes, higher is more even.",
        minimum=0.01,
    )
    cap: int | None = setting(None, "Mixing cap: most rows of each task in an epoch.", minimum=1)
    columns: JsonObject = setting(
        {},
        "Your column for each of mosld's, as in {question: q.stem, choices: options, answer: label}, null to leave one "
        "aside; or a map per task.",
    )
    answer_as: str = setting(
        "auto",
        "How your answers name a choice; auto: detected from the rows; label: of labelled choices; index: from 0; "
        "number: from 1.",
        choices=("auto", "label", "text", "letter", "index", "number"),
    )
    holdout: float = setting(
        0.1,
        "Share of your train rows held out where there is no validation file, and as much where there is no test file.",
        minimum=0.001,
        below=0.5,
    )
    score_replies: bool = setting(
        True, "Generate free-text replies and score them by exact match; false: train on them only."
    )


@dataclass(frozen=True)
class SourceConfig:
    """Where the rows come from."""

    name: str = setting("bundled", "Kind of source.", choices=("bundled", "local", "hub"))
    root: str | None = setting(
        None,
        "Directory with <task>/{train,validation,test}.jsonl; with data=local also csv, tsv, parquet, or one file.",
    )
    on_bad_row: str = setting(
        "error",
        "error: list every bad row and stop; skip: leave them out and report how many.",
        choices=("error", "skip"),
    )


PROMPTS = ("letter", "list", "cloze", "chat")
# The formats whose answer to a question of choice is a letter.
LETTER_PROMPTS = ("letter", "chat")
# What people type, as other programs call it: the key or group that means it.
SYNONYMS = {
    "adapter": "method", "base_model": "model", "base_model_name_or_path": "model", "bf16": "model.dtype",
    "bs": "training.batch_size", "cutoff_len": "data.cutoff", "dataset": "data", "dataset_name": "data",
    "ga": "training.batch_size", "grad_clip": "training.max_grad_norm", "gradient_accumulation_steps":
    "training.batch_size", "k": "method.top_k", "load_in_4bit": "model.quantize", "load_in_8bit": "model.quantize",
    "lora_alpha": "method.alpha", "lora_dropout": "method.dropout", "lora_r": "method.rank", "lora_rank": "method.rank",
    "lora_target_modules": "method.targets", "lr": "training.learning_rate", "lr_scheduler_type": "training.schedule",
    "max_length": "data.cutoff", "max_seq_len": "data.cutoff", "max_seq_length": "data.cutoff", "model_id": "model",
    "model_name": "model", "model_name_or_path": "model", "name_or_path": "model", "num_epochs": "training.epochs",
    "num_experts": "allocation.experts", "num_experts_per_tok": "method.top_k", "num_train_epochs": "training.epochs",
    "optim": "training.optimizer", "out": "output_dir", "output": "output_dir", "per_device_train_batch_size":
    "training.micro_batch_size", "quantization": "model.quantize", "r": "method.rank", "report_to": "logger",
    "save_steps": "training.checkpoint_every", "eval_steps": "training.validate_every", "scheduler":
    "training.schedule", "seq_len": "data.cutoff", "steps": "training.max_steps", "target_modules": "method.targets",
    "tokens": "data.cutoff", "topk": "method.top_k", "torch_dtype": "model.dtype", "wandb": "logger",
    "warmup_ratio": "training.warmup", "warmup_steps": "training.warmup", "wd": "training.weight_decay",
}  # fmt: skip
# The keys that take a map.
MAPS = ("model.shape", "method.experts_from", "data.weights", "data.columns")


@dataclass(frozen=True)
class ModelConfig:
    """The base model: where its weights come from, and its shape."""

    name: str = setting("", "Name in tables and run directories; other weights need another name.")
    kind: str = setting("hub", "Where the weights come from.", choices=("embedded", "hub", "random"))
    hub: str | None = setting(None, "Repository on the Hugging Face Hub.")
    revision: str | None = setting(
        None, "Commit, branch or tag of that repository; its commit is recorded. null: the newest of its main branch."
    )
    path: str | None = setting(None, "Local checkpoint directory, used in place of the named weights.")
    allow_other_base: bool = setting(
        False, "Use other weights than those that the run was trained on.", affects_results=False
    )
    dtype: str = setting(
        "auto",
        "Type of the frozen weights; auto: bfloat16 where the CPU multiplies it natively.",
        choices=("auto", "float32", "bfloat16"),
    )
    quantize: str | None = setting(
        None, "Quantize the frozen linear layers to 4 or 8 bits (bitsandbytes); null: no.", choices=("nf4", "int8")
    )
    attention: str = setting(
        "auto",
        "Attention kernel; auto: sdpa on CUDA; on CPU eager, but sdpa for long passes in evaluation.",
        choices=("auto", "eager", "sdpa"),
    )
    prompt: str = setting("letter", "Prompt format where `prompt` is null.", choices=PROMPTS, affects_results=False)
    score_base: bool = setting(
        False, "Score the untrained model where `evaluation.base` is null.", affects_results=False
    )
    architecture: str | None = setting(
        "llama", "Model type in transformers, to build the shape without weights; null: that of the checkpoint."
    )
    shape: JsonObject = setting({}, "Keys of that model type's transformers config.")
    license: str | None = setting(
        None, "Licence of the weights as the hub names it, for model cards; null: unknown.", affects_results=False
    )


@dataclass(frozen=True)
class TrainingConfig:
    """Optimiser, batches, validation and checkpoints."""

    name: str = setting("", "Name of the training settings.", affects_results=False)
    epochs: int = setting(3, "Passes over the train rows.", minimum=1)
    max_steps: int | None = setting(None, "Stop after this many optimiser steps.", minimum=1)
    batch_size: int = setting(8, "Rows per optimiser step, over all processes.", minimum=1)
    micro_batch_size: int | str = setting(
        8, "Most rows per forward pass on one process; auto: as many as fit in memory.", minimum=1, choices=("auto",)
    )
    optimizer: str = setting(
        "adamw",
        "adamw_8bit keeps the optimiser's state in 8 bits (bitsandbytes): a quarter of its memory.",
        choices=("adamw", "adamw_8bit"),
        hash_default=False,
    )
    learning_rate: float = setting(3e-3, "Peak learning rate of AdamW.", minimum=0)
    schedule: str = setting(
        "linear",
        "How the learning rate falls after the warm-up: to 0 in a line or a half cosine, or not at all.",
        choices=("linear", "cosine", "constant"),
        hash_default=False,
    )
    warmup: float = setting(0.06, "Share of the steps over which the learning rate rises.", minimum=0, below=1)
    weight_decay: float = setting(0.0, "AdamW's decoupled weight decay.", minimum=0)
    max_grad_norm: float | None = setting(1.0, "Clip gradients to this norm; null: no clipping.", minimum=0)
    gradient_checkpointing: bool = setting(False, "Recompute activations in the backward pass: less memory, more time.")
    compile: bool = setting(
        False, "Compile the decoder layers (torch.compile): minutes at the start, then faster steps."
    )
    validate_every: int | None = setting(None, "Optimiser steps between validations; null: once per epoch.", minimum=1)
    patience: int | None = setting(
        None,
        "Stop after this many validations in a row without an improvement; null: train all steps.",
        minimum=1,
        hash_default=False,
    )
    checkpoint_every: int = setting(100, "Optimiser steps between checkpoints.", minimum=1, affects_results=False)
    keep_last: int = setting(2, "Checkpoints to keep besides the best one.", minimum=1, affects_results=False)
    resume: str = setting(
        "auto",
        "auto: resume from the newest intact checkpoint; never: start over; force: resume with changed config or data.",
        choices=("auto", "never", "force"),
        affects_results=False,
    )


@dataclass(frozen=True)
class EvaluationConfig:
    """What is scored, and in which batches."""

    base: bool | None = setting(
        None, "Also score the untrained model; null: as model.score_base says.", affects_results=False
    )
    limit: int | None = setting(None, "Test items per task; the same items for every run.", minimum=1)
    shots: int = setting(
        0, "Few-shot examples (mmlu only): solved questions of the same subject before each question.", minimum=0
    )
    validation_limit: int = setting(16, "Validation items per task.", minimum=1)
    batch_tokens: int = setting(1024, "Padded tokens per forward pass; when generating, of the prompts.", minimum=1)
    max_new_tokens: int = setting(256, "Longest generated answer in tokens; longer ones are cut.", minimum=1)


@dataclass(frozen=True)
class LoggerConfig:
    """Where measurements go besides the run directory."""

    name: str = setting("files", "Kind of logger.", choices=("files", "wandb"), affects_results=False)
    every: int = setting(1, "Optimiser steps between lines of metrics.jsonl.", minimum=1, affects_results=False)
    expert_load_every: int = setting(
        10,
        "Of the lines of metrics.jsonl, every which one has the load of the experts; the last has it, too.",
        minimum=1,
        affects_results=False,
    )
    dead_share: float = setting(
        0.01,
        "An expert with less than this part of an even share in three such lines in a row is dead; 0: no warning.",
        minimum=0,
        affects_results=False,
    )
    least_entropy: float = setting(
        0.1,
        "A router whose load has less entropy in three such lines in a row has collapsed (0: all tokens take the same "
        "experts, 1: an even load).",
        minimum=0,
        affects_results=False,
    )
    mode: str = setting(
        "auto",
        "W&B: auto is online if an API key is configured, else offline.",
        choices=("auto", "online", "offline"),
        affects_results=False,
    )
    project: str = setting("mosld", "W&B project.", affects_results=False)
    entity: str | None = setting(None, "W&B team or user.", affects_results=False)
    group: str | None = setting(None, "W&B group; null: <data>-<model>, or the sweep.", affects_results=False)
    job_type: str = setting("train", "W&B job type.", affects_results=False)
    artifact: bool = setting(False, "W&B: also upload the trained adapter as an artifact.", affects_results=False)


@dataclass(frozen=True)
class HubConfig:
    """Whether the trained adapter or model is pushed to the Hugging Face Hub."""

    push_to: str | None = setting(
        None, "Repository to push to at the end, as in me/my-adapter; null: no push.", affects_results=False
    )
    private: bool = setting(True, "Create the repository as private.", affects_results=False)


@dataclass(frozen=True)
class Config:
    """One run: everything that `config.yaml` in the run directory records."""

    seed: int = setting(0, "Seed of initial weights, dropout and data order.", minimum=0, below=2**32)
    output_dir: str | None = setting(
        None, "Run directory, in place of outputs/<data>/<model>/<method>-...", affects_results=False
    )
    init_from: str | None = setting(
        None,
        "Finished run or adapter directory whose trained weights this run starts from, at step 0 with a new optimiser.",
        hash_default=False,
    )
    check: bool = setting(
        False, "Check config and data, run the longest batch forward and backward, and stop.", affects_results=False
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
