"""Questions from a relation: entities sorted into groups, each group under one value.

Four forms, each with its own templates ({e} entity, {v} value, {E} and {V} with a capital):
    forward   which value has this entity?             distractors: other values
    inverse   which entity has this value?             distractors: entities of other groups
    negative  which entity does NOT have this value?   distractors: entities of the group
    peer      which entity shares this one's value?    distractors: entities of other groups (two steps)
The templates of every entity or value are divided among the splits, so the text of a question is in one split only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count as count_from
from itertools import pairwise
from random import Random
from typing import TypeVar

from mosld.common.files import JsonObject
from mosld.data.bundled.item import Balance, Item, capital, distinct, load, to_rows

T = TypeVar("T")

# The forms with their shares of the questions, relative to each other.
FORM_WEIGHTS = {"forward": 2.0, "inverse": 2.0, "negative": 0.3, "peer": 2.0}
# Of a subject of mmlu: the splits, their templates and their rows. The templates for training serve for dev, so that
# both the wording and the fact of a test row are new.
SUBJECT_SPLITS = (("dev", "train", 5), ("test", "test", 36))


@dataclass(frozen=True)
class Relation:
    """One table of facts with the templates that ask for them."""

    name: str
    groups: dict[str, list[str]]
    forward: list[str] = field(default_factory=list)
    inverse: list[str] = field(default_factory=list)
    negative: list[str] = field(default_factory=list)
    peer: list[str] = field(default_factory=list)

    @property
    def value_of(self) -> dict[str, str]:
        """The value of each entity."""
        return {entity: value for value, group in self.groups.items() for entity in group}


# Adds a context to a question.
AddContext = Callable[[Relation, Item, Random], Item]


def split_templates(templates: Sequence[T], key: str, split: str) -> list[T]:
    """The templates of `key` for `split`: a quarter for test, a sixth for validation, at least one each."""
    if len(templates) < 3:
        raise ValueError(f"{key}: {len(templates)} templates cannot be divided among three splits")
    order = list(templates)
    Random(f"deal/{key}").shuffle(order)
    test = max(1, len(order) // 4)
    train = test + max(1, len(order) // 6)
    return {"test": order[:test], "validation": order[test:train], "train": order[train:]}[split]


def divide(count: int, weights: Sequence[float]) -> list[int]:
    """Split `count` in proportion to the weights, so that the parts sum to `count` exactly."""
    edges = [round(count * sum(weights[:end]) / sum(weights)) for end in range(len(weights) + 1)]
    return [after - before for before, after in pairwise(edges)]


def _choose(
    relation: Relation, form: str, value: str, entity: str, balance: Balance, choices: int
) -> tuple[str, tuple[str, ...]]:
    """Answer and distractors of one question of `form`."""
    inside = relation.groups[value]
    outside = [other for other, its_value in relation.value_of.items() if its_value != value]
    if form == "forward":
        answer, pool = value, [other for other in relation.groups if other != value]
    elif form == "negative":
        answer, pool = balance.answer(outside), inside
    elif form == "peer":
        answer, pool = balance.answer([other for other in inside if other != entity]), outside
    else:
        answer, pool = entity, outside
    return answer, balance.distractors(answer, pool, choices - 1)


def form_items(relation: Relation, form: str, split: str, choices: int, rng: Random) -> Iterator[Item]:
    """Endless questions of one form, every value equally often and within it every entity."""
    balance = Balance(rng)
    groups = {value: rng.sample(group, len(group)) for value, group in relation.groups.items()}
    for turn in count_from():
        for value in rng.sample(list(groups), len(groups)):
            entity = groups[value][turn % len(groups[value])]
            key = entity if form in ("forward", "peer") else value
            templates = split_templates(getattr(relation, form), f"{relation.name}/{form}/{key}", split)
            answer, wrong = _choose(relation, form, value, entity, balance, choices)
            question = rng.choice(templates).format(e=entity, v=value, E=capital(entity), V=capital(value))
            yield Item(f"{relation.name}/{form}", capital(question), answer, wrong)


def table_items(
    relations: Sequence[Relation],
    split: str,
    count: int,
    choices: int,
    rng: Random,
    add_context: AddContext = lambda _relation, item, _rng: item,
) -> list[Item]:
    """`count` different questions of `split`, over the relations in proportion to their facts and over their forms."""
    items: list[Item] = []
    shares = divide(count, [len(relation.value_of) for relation in relations])
    for relation, share in zip(relations, shares, strict=True):
        forms = [form for form in FORM_WEIGHTS if getattr(relation, form)]
        form_shares = divide(share, [FORM_WEIGHTS[form] for form in forms])
        for form, form_share in zip(forms, form_shares, strict=True):
            bare = form_items(relation, form, split, choices, rng)
            items += distinct((add_context(relation, item, rng) for item in bare), form_share)
    return items


def subject_rows(subject: str) -> dict[str, list[JsonObject]]:
    """The dev and test rows of a subject; no question is in both."""
    table = load("mmlu")[subject]
    groups = {value: [thing] for thing, value in table["pairs"].items()}
    relation = Relation(subject, groups, forward=table["forward"], inverse=table["inverse"])
    splits = {}
    for split, template_split, count in SUBJECT_SPLITS:
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
