"""The typed schema of the data: which tasks, and where their rows come from."""

from dataclasses import dataclass

from mosld.config.setting import setting

TASKS = ("obqa", "csqa", "race", "mctest", "arc_e", "arc_c")


@dataclass(frozen=True)
class DataConfig:
    """What is trained and tested on."""

    name: str = setting("", "Name in tables and run directories.")
    tasks: list[str] = setting([], "Tasks, mixed by concatenation and shuffling.", choices=TASKS)
    limit: int | None = setting(None, "Train rows per task; the same rows for every seed.", minimum=1)


@dataclass(frozen=True)
class SourceConfig:
    """Where the rows come from."""

    name: str = setting("bundled", "Kind of source.", choices=("bundled", "local"))
    root: str | None = setting(None, "Directory with <task>/{train,validation,test}.jsonl.")
    on_bad_row: str = setting(
        "error",
        "error: list every bad row and stop; skip: leave them out and say so.",
        choices=("error", "skip"),
    )
