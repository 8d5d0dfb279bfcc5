"""The typed schema of the data: which tasks, and where their rows come from."""

from dataclasses import dataclass
from typing import Any

from mosld.config.setting import setting

TASKS = ("obqa", "csqa", "race", "mctest", "arc_e", "arc_c", "gsm8k")


@dataclass(frozen=True)
class DataConfig:
    """What is trained and tested on."""

    name: str = setting("", "Name in tables and run directories.")
    tasks: list[str] = setting([], "Tasks, mixed by concatenation and shuffling.", choices=TASKS)
    limit: int | None = setting(None, "Train rows per task; the same rows for every seed.", minimum=1)
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


@dataclass(frozen=True)
class SourceConfig:
    """Where the rows come from."""

    name: str = setting("bundled", "Kind of source.", choices=("bundled", "local", "hub"))
    root: str | None = setting(None, "Directory with <task>/{train,validation,test}.jsonl.")
    on_bad_row: str = setting(
        "error",
        "error: list every bad row and stop; skip: leave them out and say so.",
        choices=("error", "skip"),
    )
