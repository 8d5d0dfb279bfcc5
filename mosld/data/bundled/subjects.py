"""Knowledge by subject (the mmlu task): one table a subject, asked for a few examples (dev) and a test."""

from random import Random

from mosld.data.bundled.item import Item, load, to_rows
from mosld.data.bundled.relation import Relation, form_items

DEV, TEST = 5, 36


def subject_rows(subject: str) -> dict[str, list[dict]]:
    """The dev and test rows of a subject; no question of the one stands in the other."""
    table = load("mmlu")[subject]
    groups = {value: [thing] for thing, value in table["pairs"].items()}
    relation = Relation(subject, groups, forward=table["forward"], inverse=table["inverse"])
    splits = {}
    # The wordings dealt to training serve as the examples; a row's wording and fact are then new in the test.
    for split, dealt_as, count in (("dev", "train", DEV), ("test", "test", TEST)):
        rng = Random(f"mmlu/{subject}/{split}")
        found: dict[tuple, Item] = {}
        sources = [form_items(relation, form, dealt_as, 4, rng) for form in ("forward", "inverse")]
        while len(found) < count:
            item = next(sources[len(found) % 2])
            found.setdefault(item.key, item)
        splits[split] = to_rows(list(found.values()), f"{subject}/{split}", rng)
    return splits


def all_subjects() -> dict[str, list[dict]]:
    """Dev and test rows of every subject, subject after subject."""
    subjects = [subject_rows(subject) for subject in load("mmlu")]
    return {split: [row for rows in subjects for row in rows[split]] for split in ("dev", "test")}
