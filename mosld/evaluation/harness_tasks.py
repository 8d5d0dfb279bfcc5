"""lm-evaluation-harness's tasks: which there are, and own rows in the columns that a task file of it reads."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from mosld.config import DataConfig, SourceConfig, UserError, nearest
from mosld.data import Dataset, load_dataset
from mosld.data.rows import AnyRow, Row, Solution

INSTALL = "backend=lm_eval: lm-evaluation-harness is not installed; pip install 'mosld[lm-eval]'."


def _choices(row: Row) -> dict[str, Any]:
    labels = list(ascii_uppercase[: len(row.choices)])
    return {"id": row.id, "choices": {"text": list(row.choices), "label": labels}, "answerKey": labels[row.answer]}


def _question(row: AnyRow) -> dict[str, Any]:
    assert isinstance(row, Row)
    return {**_choices(row), "question": row.question}


def _stem(row: AnyRow) -> dict[str, Any]:
    assert isinstance(row, Row)
    return {**_choices(row), "question_stem": row.question}


def _solution(row: AnyRow) -> dict[str, Any]:
    assert isinstance(row, Solution)
    return {"id": row.id, "question": row.question, "answer": row.answer}


@dataclass(frozen=True)
class Known:
    """A task of the harness whose rows can be own ones.

    Attributes:
        task: the same benchmark here.
        folder: where in the harness its task file lies.
        columns: a row as the published set has it, which is what the task file reads.
        examples: whether its prompts begin with train rows.
    """

    task: str
    folder: str
    columns: Callable[[AnyRow], dict[str, Any]]
    examples: bool = False


KNOWN = {
    "arc_easy": Known("arc_e", "arc", _question),
    "arc_challenge": Known("arc_c", "arc", _question),
    "openbookqa": Known("obqa", "openbookqa", _stem),
    "commonsense_qa": Known("csqa", "commonsense_qa", _question),
    "gsm8k": Known("gsm8k", "gsm8k", _solution, examples=True),
}


def check_tasks(names: Sequence[str], source: str) -> None:
    """Whether the harness is here and has these tasks, and the source has rows for them.

    Raises:
        UserError: with one message for each task that cannot be had, and the nearest that can.
    """
    if find_spec("lm_eval") is None:
        raise UserError(INSTALL)
    if not names:
        raise UserError("tasks: backend=lm_eval needs the harness's names of them, as in tasks=arc_easy,arc_challenge.")
    unknown = [name for name in names if name not in KNOWN]
    if unknown and source != "hub":
        raise UserError(*(_without_rows(name, source) for name in unknown))
    valid = set(manager(names).all_tasks) if unknown else set(KNOWN)
    missing = [name for name in unknown if name not in valid]
    if missing:
        raise UserError(*(f"tasks={name}: the harness has no such task; {_meant(name, valid)}" for name in missing))


def own_rows(names: Sequence[str], source: SourceConfig) -> Dataset | None:
    """The test rows of these tasks, and train rows where a prompt begins with some; None where the harness fetches.

    Raises:
        UserError: rows are missing or bad.
    """
    if source.name == "hub":
        return None
    parts = []
    for training in (False, True):
        tasks = [KNOWN[name].task for name in names if KNOWN[name].examples == training]
        parts += [load_dataset(DataConfig("lm_eval", tasks=tasks), source, training)] if tasks else []
    rows = {task: data for part in parts for task, data in part.tasks.items()}
    return Dataset({KNOWN[name].task: rows[KNOWN[name].task] for name in names}, source.name, parts[0].notes)


def _meant(name: str, valid: Iterable[str]) -> str:
    ours = next((theirs for theirs, known in KNOWN.items() if known.task == name), None)
    return f"did you mean '{ours}'? " if ours else nearest(name, valid, [*KNOWN, "..."])


def _without_rows(name: str, source: str) -> str:
    return (
        f"tasks={name}: source={source} has no rows for it; {_meant(name, KNOWN)} "
        "With source=hub the harness fetches its own rows."
    )


def manager(names: Sequence[str]) -> Any:
    """The harness's index of its task files: only the folders of these tasks where they are known, which is fast."""
    from lm_eval import tasks

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folders = sorted({KNOWN[name].folder for name in names if name in KNOWN})
    if any(name not in KNOWN for name in names):
        return tasks.TaskManager()
    root = Path(tasks.__file__).parent
    return tasks.TaskManager(include_defaults=False, include_path=[root / folder for folder in folders])


def on_rows(name: str, index: Any, splits: Mapping[str, Sequence[AnyRow]]) -> Any:
    """A task of the harness as its own file has it, on own rows: `splits` holds "test", and "train" for examples."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    known, config = KNOWN[name], dict(index.task_index[name].cfg)
    held = {split: datasets.Dataset.from_list([known.columns(row) for row in rows]) for split, rows in splits.items()}

    def rows_of(**_: Any) -> dict[str, datasets.Dataset]:
        """Own rows in place of the published set."""
        return held

    train = "train" if "train" in held else None
    config |= {"test_split": "test", "validation_split": None, "training_split": train, "fewshot_split": train}
    structure = ("tag", "group", "task_list")  # of the index, not of the task
    return ConfigurableTask(
        config={key: entry for key, entry in config.items() if key not in structure} | {"custom_dataset": rows_of}
    )
