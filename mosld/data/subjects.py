"""The 57 subjects of MMLU by category, as its authors group them (Hendrycks et al. 2021), and their examples."""

from collections.abc import Mapping, Sequence

from mosld.common.errors import UserError
from mosld.data.rows import AnyRow
from mosld.data.tasks import Task

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
# The category of each subject.
CATEGORY = {subject: category for category, subjects in CATEGORIES.items() for subject in subjects}


def subject_of(row_id: str) -> str:
    """The subject in a row's id: the part before the first slash, as in anatomy/test/0."""
    return row_id.partition("/")[0]


def require_subject(row_id: str) -> None:
    """Raise a ValueError if a row's id does not begin with a subject of MMLU."""
    if subject_of(row_id) not in CATEGORY:
        raise ValueError(f"id '{row_id}' must begin with one of MMLU's subjects and a slash, as in anatomy/test/0")


def solved_examples(task: Task, published: Mapping[str, Sequence[AnyRow]], shots: int) -> dict[str, list[AnyRow]]:
    """By subject of the test, the first `shots` rows of the task's examples split; empty for a task without one.

    Raises:
        UserError: a subject has fewer examples.
    """
    if task.examples_split is None:
        return {}
    by_subject: dict[str, list[AnyRow]] = {subject_of(row.id): [] for row in published[task.test_split]}
    for row in published[task.examples_split]:
        if subject_of(row.id) in by_subject:
            by_subject[subject_of(row.id)].append(row)
    fewest = min(by_subject, key=lambda subject: len(by_subject[subject]), default="")
    if by_subject and len(by_subject[fewest]) < shots:
        raise UserError(
            f"evaluation.shots={shots}: the {task.examples_split} split has {len(by_subject[fewest])} rows of {fewest}."
        )
    return {subject: rows[:shots] for subject, rows in by_subject.items()}
