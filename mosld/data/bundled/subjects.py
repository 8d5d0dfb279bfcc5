"""Knowledge by subject (mmlu): one table a subject, with a few examples (dev) and a test."""

from random import Random

from mosld.common.files import JsonObject
from mosld.data.bundled.item import Item, load, to_rows
from mosld.data.bundled.relation import Relation, form_items

# The templates for training serve for dev, so that both the wording and the fact of a test row are new.
SPLITS = (("dev", "train", 5), ("test", "test", 36))


def subject_rows(subject: str) -> dict[str, list[JsonObject]]:
    """The dev and test rows of a subject; no question is in both."""
    table = load("mmlu")[subject]
    groups = {value: [thing] for thing, value in table["pairs"].items()}
    relation = Relation(subject, groups, forward=table["forward"], inverse=table["inverse"])
    splits = {}
    for split, template_split, count in SPLITS:
        rng = Random(f"mmlu/{subject}/{split}")
        sources = [form_items(relation, form, template_split, 4, rng) for form in ("forward", "inverse")]
        items: dict[object, Item] = {}
        while len(items) < count:
            item = next(sources[len(items) % 2])
            items.setdefault(item.key, item)
        splits[split] = to_rows(list(items.values()), f"{subject}/{split}", rng)
    return splits


def all_subjects() -> dict[str, list[JsonObject]]:
    """Dev and test rows of every subject, subject after subject."""
    subjects = [subject_rows(subject) for subject in load("mmlu")]
    return {split: [row for rows in subjects for row in rows[split]] for split in ("dev", "test")}
