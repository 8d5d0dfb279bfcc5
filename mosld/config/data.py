"""The typed schema of the data: which tasks, and where their rows come from."""

from dataclasses import dataclass
from typing import Any

from mosld.config.setting import setting

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
