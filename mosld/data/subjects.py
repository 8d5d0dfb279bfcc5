"""The 57 subjects of MMLU in their four categories, as the set's authors group them (Hendrycks et al. 2021)."""

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
