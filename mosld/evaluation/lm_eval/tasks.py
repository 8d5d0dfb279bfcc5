"""lm-evaluation-harness's tasks: which there are, and own rows in the columns that a task file of it reads."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from mosld.common.errors import UserError, nearest
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import Dataset, load_dataset
from mosld.data.rows import AnyRow, Row, Solution
from mosld.data.subjects import CATEGORIES, CATEGORY, subject_of

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


def _of_subject(row: AnyRow) -> dict[str, Any]:
    assert isinstance(row, Row)
    columns = {"question": row.question, "choices": list(row.choices), "answer": row.answer}
    return {"id": row.id, "subject": subject_of(row.id), **columns}


def _solution(row: AnyRow) -> dict[str, Any]:
    assert isinstance(row, Solution)
    return {"id": row.id, "question": row.question, "answer": row.answer}


@dataclass(frozen=True)
class TaskMapping:
    """A task of the harness, or a group of its tasks, whose rows can be own ones.

    Attributes:
        task: the same benchmark here.
        folder: where in the harness its task file lies.
        columns: a row as the published set has it, which is what the task file reads.
        trained: whether its prompts begin with train rows.
        letters: how many options its task file has letters for; None: any number.
        subject: the one subject whose rows it takes; None: all rows.
        group: whether it is a group, of a task for each subject.
    """

    task: str
    folder: str
    columns: Callable[[AnyRow], dict[str, Any]]
    trained: bool = False
    letters: int | None = None
    subject: str | None = None
    group: bool = False


KNOWN = {
    "arc_easy": TaskMapping("arc_e", "arc", _question),
    "arc_challenge": TaskMapping("arc_c", "arc", _question),
    "openbookqa": TaskMapping("obqa", "openbookqa", _stem),
    "commonsense_qa": TaskMapping("csqa", "commonsense_qa", _question, letters=5),
    "gsm8k": TaskMapping("gsm8k", "gsm8k", _solution, trained=True),
    "mmlu": TaskMapping("mmlu", "mmlu/default", _of_subject, letters=4, group=True),
    **{
        f"mmlu_{subject}": TaskMapping("mmlu", "mmlu/default", _of_subject, letters=4, subject=subject)
        for subject in CATEGORY
    },
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
    if faults := list(_twice(names)):
        raise UserError(*faults)
    unknown = [name for name in names if name not in KNOWN]
    if unknown and source != "hub":
        raise UserError(*(_without_rows(name, source) for name in unknown))
    valid = set(task_manager(names).all_tasks) if unknown else set(KNOWN)
    missing = [name for name in unknown if name not in valid]
    if missing:
        raise UserError(*(f"tasks={name}: the harness has no such task; {_meant(name, valid)}" for name in missing))


def _twice(names: Sequence[str]) -> Iterator[str]:
    parts = {f"mmlu_{part.lower().replace(' ', '_')}" for part in (*CATEGORY, *CATEGORIES)}
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"tasks: {name} is named twice."
        elif name in parts and "mmlu" in names:
            yield f"tasks: {name} is part of mmlu, which is named too; leave one of them out."


def own_rows(names: Sequence[str], source: SourceConfig, shots: int = 0) -> Dataset | None:
    """The test rows of these tasks, and the rows that their prompts begin with; None where the harness fetches.

    Raises:
        UserError: rows are missing or bad, or cannot be put as the harness puts them.
    """
    if source.name == "hub":
        return None
    parts = []
    for training in (False, True):
        tasks = list(dict.fromkeys(KNOWN[name].task for name in names if KNOWN[name].trained == training))
        parts += [load_dataset(DataConfig("lm_eval", tasks=tasks), source, training, shots)] if tasks else []
    rows = {task: data for part in parts for task, data in part.tasks.items()}
    faults = [fault for name in names for fault in _unsupported_keys(name, rows[KNOWN[name].task].test, source.name)]
    if faults:
        raise UserError(*faults)
    return Dataset({KNOWN[name].task: rows[KNOWN[name].task] for name in names}, source.name, parts[0].notes)


def _unsupported_keys(name: str, rows: Sequence[AnyRow], source: str) -> Iterator[str]:
    """Why the task's file cannot take these rows."""
    taken, letters = rows_of(name, rows), KNOWN[name].letters
    if not taken:
        have = sorted({f"mmlu_{subject_of(row.id)}" for row in rows})
        yield f"tasks={name}: source={source} has no rows of that subject; {nearest(name, have)}"
    others = [row.id for row in taken if isinstance(row, Row) and letters and len(row.choices) != letters]
    if others:
        yield (
            f"tasks={name}: {len(others)} rows have not {letters} choices, the first: {others[0]}; the harness's task "
            f"file has {letters} letters. Leave such rows out, or score them here, without backend=lm_eval."
        )


def rows_of(name: str, rows: Sequence[AnyRow]) -> list[AnyRow]:
    """Those that the task takes: all, or those of its subject."""
    subject = KNOWN[name].subject
    return [row for row in rows if subject is None or subject_of(row.id) == subject]


def _meant(name: str, valid: Iterable[str]) -> str:
    ours = next((theirs for theirs, known in KNOWN.items() if known.task == name), None)
    listed = [known for known, entry in KNOWN.items() if not entry.subject]
    return f"did you mean '{ours}'? " if ours else nearest(name, valid, [*listed, "mmlu_<subject>", "..."])


def _without_rows(name: str, source: str) -> str:
    return (
        f"tasks={name}: source={source} has no rows for it; {_meant(name, KNOWN)} "
        "With source=hub the harness fetches its own rows."
    )


def task_manager(names: Sequence[str]) -> Any:
    """The harness's index of its task files: only the folders of these tasks where they are known, which is fast."""
    from lm_eval import tasks

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folders = sorted({KNOWN[name].folder for name in names if name in KNOWN})
    if any(name not in KNOWN for name in names):
        return tasks.TaskManager()
    root = Path(tasks.__file__).parent
    return tasks.TaskManager(include_defaults=False, include_path=[root / folder for folder in folders])


def published(name: str, index: Any, shots: int | None) -> Any:
    """A task or group of the harness on the rows that it fetches; `shots` None: examples as its file says."""
    if shots is None:
        return name
    loaded = index.load([name])
    for task in loaded["tasks"].values():
        task.set_config("num_fewshot", shots)
    return loaded["groups"].get(name) or loaded["tasks"][name]


def task_on_rows(name: str, index: Any, splits: Mapping[str, Sequence[AnyRow]], shots: int | None = None) -> Any:
    """A task of the harness as its own file has it, on own rows.

    Args:
        name: a task, no group.
        index: the harness's index of task files.
        splits: "test", and "examples" for a task whose prompts begin with some.
        shots: how many; None: as many as its file says.
    """
    import datasets
    from lm_eval.api.task import ConfigurableTask

    known, config = KNOWN[name], dict(index.task_index[name].cfg)
    held = {split: datasets.Dataset.from_list([known.columns(row) for row in rows]) for split, rows in splits.items()}

    def own(**_: Any) -> dict[str, datasets.Dataset]:
        """Own rows in place of the published set."""
        return held

    examples = "examples" if "examples" in held else None
    config |= {"test_split": "test", "validation_split": None, "training_split": None, "fewshot_split": examples}
    config |= {} if shots is None else {"num_fewshot": shots}
    structure = ("tag", "group", "task_list")  # of the index, not of the task
    return ConfigurableTask(
        config={key: entry for key, entry in config.items() if key not in structure} | {"custom_dataset": own}
    )
