"""The bundled data: every task of the project, generated from the committed tables and templates in facts/.

`generate(task)` is a pure function of the committed files. Its random generators are seeded with the names of task and
split, so a row does not depend on the process, on other tasks or on the order of calls. The six multiple-choice tasks
are described in their modules: relation (csqa, arc_e), hard (arc_c), reading (obqa, race, mctest); the others are
arithmetic (gsm8k), instructions (openorca) and the subjects of relation (mmlu).
"""

from collections.abc import Callable
from random import Random

from mosld.common.files import JsonObject
from mosld.data.bundled.arithmetic import word_problems
from mosld.data.bundled.hard import hard_items
from mosld.data.bundled.instructions import instructions
from mosld.data.bundled.item import Item, load, to_rows
from mosld.data.bundled.reading import open_book_items, reading_items
from mosld.data.bundled.relation import Relation, all_subjects, table_items

# Rows of each task and split; those of mmlu follow from its subjects.
SIZES = {
    "obqa": {"train": 800, "validation": 100, "test": 100},
    "csqa": {"train": 1400, "validation": 100},
    "race": {"train": 500, "validation": 100, "test": 100},
    "mctest": {"train": 600, "validation": 100, "test": 100},
    "arc_e": {"train": 1100, "validation": 100, "test": 100},
    "arc_c": {"train": 1000, "validation": 100, "test": 100},
    "gsm8k": {"train": 800, "test": 200},
    "openorca": {"train": 2000},
}
TASKS = (*SIZES, "mmlu")


def fact_items(task: str, split: str, count: int, rng: Random) -> list[Item]:
    """Questions from the relations of facts/<task>.yaml, with five choices for csqa and four otherwise."""
    relations = [Relation(**table) for table in load(task)]
    return table_items(relations, split, count, 5 if task == "csqa" else 4, rng)


# What generates the questions of a multiple-choice task: (task, split, count, rng) -> items.
ITEMS: dict[str, Callable[[str, str, int, Random], list[Item]]] = {
    "obqa": open_book_items,
    "csqa": fact_items,
    "race": reading_items,
    "mctest": reading_items,
    "arc_e": fact_items,
    "arc_c": hard_items,
}


def items(task: str, split: str) -> list[Item]:
    """The questions of one split of a multiple-choice task, before their choices are ordered."""
    # csqa has no test split: its validation is the test, and has the templates of a test.
    template_split = "test" if task == "csqa" and split == "validation" else split
    return ITEMS[task](task, template_split, SIZES[task][split], Random(f"{task}/{split}"))


def generate(task: str) -> dict[str, list[JsonObject]]:
    """All splits of `task` as lists of records, the same in every process."""
    if task == "mmlu":
        return all_subjects()
    if task == "gsm8k":
        return {split: word_problems(split, count, Random(f"{task}/{split}")) for split, count in SIZES[task].items()}
    if task == "openorca":
        return {split: instructions(count, Random(f"{task}/{split}")) for split, count in SIZES[task].items()}
    if task not in ITEMS:
        raise ValueError(f"no bundled task {task!r}; there are {', '.join(TASKS)}")
    return {
        split: to_rows(items(task, split), f"{task}/{split}", Random(f"order/{task}/{split}")) for split in SIZES[task]
    }
