"""Build lm-eval's tasks from its own task files, on our rows or on the published ones."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import lm_eval.tasks
from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from mosld.config.schema import EvaluationConfig
from mosld.data.dataset import Dataset
from mosld.data.rows import AnyRow
from mosld.data.splits import sample
from mosld.data.subjects import subject_of
from mosld.evaluation.lm_eval.tasks import TASK_MAPPINGS, select_rows

# Keys of a task file that place the task in lm-eval's index; ConfigurableTask does not take them.
INDEX_KEYS = ("tag", "group", "task_list")


def task_manager(names: Sequence[str]) -> TaskManager:
    """Lm-eval's index of task files; only the folders of these tasks where all have a mapping, which is fast."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if any(name not in TASK_MAPPINGS for name in names):
        return TaskManager()
    root = Path(lm_eval.tasks.__file__).parent
    folders = sorted({TASK_MAPPINGS[name].folder for name in names})
    return TaskManager(include_defaults=False, include_path=[root / folder for folder in folders])


def build_task(
    name: str, manager: TaskManager, dataset: Dataset | None, evaluation: EvaluationConfig
) -> str | ConfigurableTask | Group:
    """Build one task or group on our rows, or on the rows that lm-eval downloads where `dataset` is None.

    With a limit our rows are those that `mosld.eval` takes without lm-eval.
    """
    mapping = TASK_MAPPINGS.get(name)
    if dataset is None or mapping is None:
        return published_task(name, manager, evaluation.shots if mapping and mapping.task == "mmlu" else None)
    data = dataset.tasks[mapping.task]
    test = sample(select_rows(name, data.test), evaluation.limit, "test")
    if mapping.group:
        return group_on_subjects(name, manager, test, data.examples, evaluation.shots)
    splits: dict[str, Sequence[AnyRow]] = {"test": test}
    if mapping.subject:
        if evaluation.shots:
            splits["examples"] = data.examples[mapping.subject]
        return task_on_rows(name, manager, splits, evaluation.shots)
    if mapping.trained:
        splits["examples"] = data.train
    return task_on_rows(name, manager, splits)


def published_task(name: str, manager: TaskManager, shots: int | None) -> str | ConfigurableTask | Group:
    """A task or group on the rows that lm-eval downloads; by its name alone where it has as many examples as usual."""
    if shots is None:
        return name
    loaded = manager.load([name])
    for task in loaded["tasks"].values():
        task.set_config("num_fewshot", shots)
    return loaded["groups"].get(name) or loaded["tasks"][name]


def task_on_rows(
    name: str, manager: TaskManager, splits: Mapping[str, Sequence[AnyRow]], shots: int | None = None
) -> ConfigurableTask:
    """A task as its own file defines it, on our rows.

    Args:
        name: a task, not a group.
        splits: "test", and "examples" for a task whose prompts begin with some.
        shots: number of examples; None: as many as the task's file says.
    """
    columns = TASK_MAPPINGS[name].columns
    rows = {split: datasets.Dataset.from_list([columns(row) for row in part]) for split, part in splits.items()}
    config = {key: value for key, value in manager.task_index[name].cfg.items() if key not in INDEX_KEYS}
    config |= {"test_split": "test", "validation_split": None, "training_split": None}
    config |= {"fewshot_split": "examples" if "examples" in rows else None, "custom_dataset": lambda **_: rows}
    if shots is not None:
        config["num_fewshot"] = shots
    return ConfigurableTask(config=config)


def group_on_subjects(
    name: str, manager: TaskManager, rows: Sequence[AnyRow], examples: Mapping[str, Sequence[AnyRow]], shots: int
) -> Group:
    """A group of lm-eval on our rows, with the tasks of those subjects that have rows.

    Args:
        name: the group; the task of a subject is called `<group>_<subject>`.
        rows: questions whose ids begin with their subject.
        examples: by subject, the worked examples that come before a question.
    """
    by_subject: dict[str, list[AnyRow]] = {}
    for row in rows:
        by_subject.setdefault(subject_of(row.id), []).append(row)
    tasks = {}
    for subject, test in by_subject.items():
        splits: dict[str, Sequence[AnyRow]] = {"test": test}
        if shots:
            splits["examples"] = examples[subject]
        task_name = f"{name}_{subject}"
        tasks[task_name] = task_on_rows(task_name, manager, splits, shots)
    return _group(name, manager, tasks)


def _group(name: str, manager: TaskManager, tasks: Mapping[str, ConfigurableTask]) -> Group:
    """A group as its file defines it, with the groups inside it, of these tasks only."""
    config = dict(manager.task_index[name].cfg)
    group = Group.from_config(config)
    for member_name in config["task"]:
        member = manager.task_index[member_name]
        # A member without a config is a tag, which lists the names of its tasks.
        if member.cfg is None:
            for leaf in sorted(member.tags):
                if leaf in tasks:
                    group.add(tasks[leaf])
        elif len(inner := _group(member_name, manager, tasks)):
            group.add(inner)
    return group
