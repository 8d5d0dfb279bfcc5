"""The tasks of lm-evaluation-harness that can be scored on our rows, and the checks of `mosld.eval backend=lm_eval`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from string import ascii_uppercase

from mosld.common.errors import UserError, nearest
from mosld.common.network import hub_outage
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import Dataset, load_dataset
from mosld.data.rows import AnyRow, Row, Solution
from mosld.data.subjects import CATEGORIES, CATEGORY, subject_of
from mosld.data.tasks import TASKS

INSTALL = "backend=lm_eval: lm-evaluation-harness is not installed; pip install 'mosld[lm-eval]'."


def _choices(row: AnyRow, question: str = "question") -> dict[str, object]:
    assert isinstance(row, Row)
    labels = list(ascii_uppercase[: len(row.choices)])
    choices = {"text": list(row.choices), "label": labels}
    return {"id": row.id, "choices": choices, "answerKey": labels[row.answer], question: row.question}


def _stem(row: AnyRow) -> dict[str, object]:
    return _choices(row, "question_stem")


def _subject_question(row: AnyRow) -> dict[str, object]:
    assert isinstance(row, Row)
    columns = {"question": row.question, "choices": list(row.choices), "answer": row.answer}
    return {"id": row.id, "subject": subject_of(row.id), **columns}


def _solution(row: AnyRow) -> dict[str, object]:
    assert isinstance(row, Solution)
    return {"id": row.id, "question": row.question, "answer": row.answer}


@dataclass(frozen=True)
class TaskMapping:
    """A task or group of lm-eval that can be scored on our rows.

    Attributes:
        task: our name of the benchmark.
        columns: turns a row into the columns of the published set, which the task's file reads.
        trained: whether the prompts begin with rows of train.
        choices: number of choices for which the task's file has letters; None: any number.
        subject: the only subject whose rows the task takes; None: all rows.
        group: whether this is a group with a task for each subject.
    """

    task: str
    folder: str
    columns: Callable[[AnyRow], dict[str, object]]
    trained: bool = False
    choices: int | None = None
    subject: str | None = None
    group: bool = False


_BENCHMARKS = (
    TaskMapping("arc_e", "arc", _choices),
    TaskMapping("arc_c", "arc", _choices),
    TaskMapping("obqa", "openbookqa", _stem),
    TaskMapping("csqa", "commonsense_qa", _choices, choices=5),
    TaskMapping("gsm8k", "gsm8k", _solution, trained=True),
    TaskMapping("mmlu", "mmlu/default", _subject_question, choices=4, group=True),
)
# By lm-eval's name.
TASK_MAPPINGS = {
    **{TASKS[mapping.task].lm_eval: mapping for mapping in _BENCHMARKS},
    **{
        f"mmlu_{subject}": TaskMapping("mmlu", "mmlu/default", _subject_question, choices=4, subject=subject)
        for subject in CATEGORY
    },
}


def check_tasks(names: Sequence[str], source: str) -> None:
    """Check that lm-eval is installed and has these tasks, and that the source can have rows for them.

    Raises:
        UserError: with one message for each unknown task, and the nearest valid name.
    """
    if find_spec("lm_eval") is None:
        raise UserError(INSTALL)
    if not names:
        raise UserError(
            "tasks: backend=lm_eval needs lm-eval's names of the tasks, as in tasks=arc_easy,arc_challenge."
        )
    if errors := list(_repeated(names)):
        raise UserError(*errors)
    unmapped = [name for name in names if name not in TASK_MAPPINGS]
    if not unmapped:
        return
    if source != "hub":
        raise UserError(
            *(
                f"tasks={name}: source={source} has no rows for it; {_suggestion(name, TASK_MAPPINGS)} "
                "With source=hub lm-eval downloads its own rows."
                for name in unmapped
            )
        )
    # Loads lm-eval, which takes seconds.
    from mosld.evaluation.lm_eval.build import task_manager

    valid = set(task_manager(names).all_tasks)
    if unknown := [name for name in unmapped if name not in valid]:
        raise UserError(*(f"tasks={name}: lm-eval has no such task; {_suggestion(name, valid)}" for name in unknown))


def _repeated(names: Sequence[str]) -> Iterator[str]:
    parts = {f"mmlu_{part.lower().replace(' ', '_')}" for part in (*CATEGORY, *CATEGORIES)}
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"tasks: {name} is named {names.count(name)} times."
        elif name in parts and "mmlu" in names:
            yield f"tasks: {name} is part of mmlu, which is named too; remove one of them."


def _suggestion(name: str, valid: Iterable[str]) -> str:
    if name in TASKS and TASKS[name].lm_eval:
        return f"did you mean '{TASKS[name].lm_eval}'? "
    listed = [key for key, mapping in TASK_MAPPINGS.items() if not mapping.subject]
    return nearest(name, valid, [*listed, "mmlu_<subject>", "..."])


def load_rows(names: Sequence[str], source: SourceConfig, shots: int = 0) -> Dataset | None:
    """Load the rows of lm-eval's tasks from a local source: test rows, and rows for the examples of a prompt.

    Returns:
        None for source=hub, where lm-eval downloads its own rows.

    Raises:
        UserError: rows are missing, invalid, or not supported by the task's file.
    """
    if source.name == "hub":
        # Without an answer the harness is told not to try for minutes.
        hub_outage()
        return None
    datasets = []
    for trained in (False, True):
        mappings = [TASK_MAPPINGS[name] for name in names if TASK_MAPPINGS[name].trained == trained]
        if tasks := list(dict.fromkeys(mapping.task for mapping in mappings)):
            datasets.append(load_dataset(DataConfig("lm_eval", tasks=tasks), source, trained, shots))
    loaded = {task: data for dataset in datasets for task, data in dataset.tasks.items()}
    rows = {name: loaded[TASK_MAPPINGS[name].task] for name in names}
    if errors := [error for name in names for error in _unsupported_rows(name, rows[name].test, source.name)]:
        raise UserError(*errors)
    return Dataset({TASK_MAPPINGS[name].task: rows[name] for name in names}, source.name, datasets[0].notes)


def _unsupported_rows(name: str, rows: Sequence[AnyRow], source: str) -> Iterator[str]:
    mapping = TASK_MAPPINGS[name]
    selected = select_rows(name, rows)
    if not selected:
        available = sorted({f"mmlu_{subject_of(row.id)}" for row in rows})
        yield f"tasks={name}: source={source} has no rows of that subject; {nearest(name, available)}"
    if mapping.choices is None:
        return
    wrong = [row.id for row in selected if isinstance(row, Row) and len(row.choices) != mapping.choices]
    if wrong:
        yield (
            f"tasks={name}: {len(wrong)} rows do not have {mapping.choices} choices, the first: {wrong[0]}; lm-eval's "
            f"task file has {mapping.choices} letters. Remove such rows, or score them without backend=lm_eval."
        )


def select_rows(name: str, rows: Sequence[AnyRow]) -> list[AnyRow]:
    """The rows that a task takes: all, or those of its subject."""
    subject = TASK_MAPPINGS[name].subject
    return [row for row in rows if subject is None or subject_of(row.id) == subject]
