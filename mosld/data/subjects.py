"""The 57 subjects of MMLU in their four categories, as the set's authors group them (Hendrycks et al. 2021)."""

from collections.abc import Mapping, Sequence

from mosld.common.errors import UserError
from mosld.data.rows import AnyRow
from mosld.data.tasks import Task

# PART: The 57 subjects of MMLU in their four categories, as the set's authors group them (Hendrycks et al. 2021).


CATEGORIES: dict[str, tuple[str, ...]] = {
    "STEM": (
        "abstract_algebra", "astronomy", "college_biology", "college_chemistry", "college_computer_science",
        "college_mathematics", "college_physics", "computer_security", "conceptual_physics", "electrical_engineering",
        "elementary_mathematics", "high_school_biology", "high_school_chemistry", "high_school_computer_science",
        "high_school_mathematics", "high_school_physics", "high_school_statistics", "machine_learning",
    ),
    "humanities": (
        "formal_logic", "high_school_european_history", "high_school_us_history", "high_school_world_history",
        "international_law", "jurisprudence", "logical_fallacies", "moral_disputes", "moral_scenarios", "philosophy",
        "prehistory", "professional_law", "world_religions",
    ),
    "social sciences": (
        "econometrics", "high_school_geography", "high_school_government_and_politics", "high_school_macroeconomics",
        "high_school_microeconomics", "high_school_psychology", "human_sexuality", "professional_psychology",
        "public_relations", "security_studies", "sociology", "us_foreign_policy",
    ),
    "other": (
        "anatomy", "business_ethics", "clinical_knowledge", "college_medicine", "global_facts", "human_aging",
        "management", "marketing", "medical_genetics", "miscellaneous", "nutrition", "professional_accounting",
        "professional_medicine", "virology",
    ),
}  # fmt: skip
CATEGORY = {subject: category for category, subjects in CATEGORIES.items() for subject in subjects}
"""The category of each subject."""


def subject_of(name: str) -> str:
    """The subject of the row with this id: what stands before the first slash, as in anatomy/test/0."""
    return name.partition("/")[0]


def require_subject(name: str) -> None:
    """Raise a ValueError where a row's id begins with no subject of MMLU."""
    if subject_of(name) not in CATEGORY:
        raise ValueError(f"id '{name}' must begin with one of MMLU's subjects and a slash, as in anatomy/test/0")


# PART: Solved examples before a question: rows of the split that a task keeps for them, those of its own subject.


def examples_of(task: Task, published: Mapping[str, Sequence[AnyRow]], shots: int) -> dict[str, list[AnyRow]]:
    """By subject, its first `shots` examples; nothing for a task that has none.

    Raises:
        UserError: a subject of the test has fewer.
    """
    if task.examples_split is None:
        return {}
    found: dict[str, list[AnyRow]] = {}
    for row in published[task.examples_split]:
        found.setdefault(subject_of(row.id), []).append(row)
    asked = dict.fromkeys(subject_of(row.id) for row in published[task.test_split])
    fewest = min(asked, key=lambda subject: len(found.get(subject, ())), default="")
    have = len(found.get(fewest, ()))
    if asked and have < shots:
        raise UserError(f"evaluation.shots={shots}: the {task.examples_split} split has {have} rows of {fewest}.")
    return {subject: found[subject][:shots] for subject in asked}
