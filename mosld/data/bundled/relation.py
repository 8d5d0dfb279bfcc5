"""Questions from a relation: entities sorted into groups, each group under one value.

Four forms, each with its own templates ({e} entity, {v} value, {E} and {V} with a capital):
    forward   which value has this entity?             distractors: other values
    inverse   which entity has this value?             distractors: entities of other groups
    negative  which entity does NOT have this value?   distractors: entities of the group
    peer      which entity shares this one's value?    distractors: entities of other groups (two steps)
The templates of every entity or value are dealt out over the splits, so the text of a question stands in one
split only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count as count_from
from itertools import pairwise
from random import Random
from typing import TypeVar

from mosld.data.bundled.item import Balance, Item, capital

T = TypeVar("T")

FORMS = ("forward", "inverse", "negative", "peer")
SHARE = {"forward": 2.0, "inverse": 2.0, "negative": 0.3, "peer": 2.0}
"""How many questions a form gets, relative to the others."""


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
        """Entity -> the value of its group."""
        return {entity: value for value, group in self.groups.items() for entity in group}

    def fill(self, template: str, entity: str, value: str) -> str:
        """The template with the entity and the value in it, as a sentence with a capital."""
        return capital(template.format(e=entity, v=value, E=capital(entity), V=capital(value)))


Dress = Callable[[Relation, Item, Random], Item]
"""What may be added to a bare question, such as a context, before it is compared with the others."""


def dealt(forms: Sequence[T], key: str, split: str) -> list[T]:
    """The wordings of `key` for `split`: a quarter for test, a sixth for validation, at least one each."""
    if len(forms) < 3:
        raise ValueError(f"{key}: {len(forms)} wordings cannot be dealt over three splits")
    order = list(forms)
    Random(f"deal/{key}").shuffle(order)
    test = max(1, len(order) // 4)
    train = test + max(1, len(order) // 6)
    return {"test": order[:test], "validation": order[test:train], "train": order[train:]}[split]


def divide(count: int, weights: Sequence[float]) -> list[int]:
    """Split `count` over the weights, so that the parts sum to `count` exactly."""
    edges = [round(count * sum(weights[:end]) / sum(weights)) for end in range(len(weights) + 1)]
    return [after - before for before, after in pairwise(edges)]


def different(items: Iterator[Item], count: int) -> list[Item]:
    """The first `count` different questions, or as many as there are within a generous number of tries."""
    found: dict[tuple, Item] = {}
    for attempt, item in enumerate(items):
        if len(found) >= count or attempt > 20 * count:
            break
        found.setdefault(item.key, item)
    return list(found.values())


def _draw(relation: Relation, form: str, value: str, entity: str, balance: Balance, choices: int) -> tuple[str, tuple]:
    """Answer and distractors of one question of `form`."""
    inside = relation.groups[value]
    outside = [other for other, its in relation.value_of.items() if its != value]
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
            templates = dealt(getattr(relation, form), f"{relation.name}/{form}/{key}", split)
            answer, wrong = _draw(relation, form, value, entity, balance, choices)
            question = relation.fill(rng.choice(templates), entity, value)
            yield Item(f"{relation.name}/{form}", question, answer, wrong)


def plain(_relation: Relation, item: Item, _rng: Random) -> Item:
    """The question as it is, without a context."""
    return item


def relation_items(
    relation: Relation, split: str, count: int, choices: int, rng: Random, dress: Dress = plain
) -> list[Item]:
    """`count` different questions of `split`, divided over the forms the relation has templates for."""
    forms = [form for form in FORMS if getattr(relation, form)]
    shares = divide(count, [SHARE[form] for form in forms])
    found = []
    for form, share in zip(forms, shares, strict=True):
        bare = form_items(relation, form, split, choices, rng)
        found += different((dress(relation, item, rng) for item in bare), share)
    return found


def table_items(
    relations: Sequence[Relation], split: str, count: int, choices: int, rng: Random, dress: Dress = plain
) -> list[Item]:
    """`count` questions over several relations, each in proportion to the number of its facts."""
    shares = divide(count, [len(relation.value_of) for relation in relations])
    return [
        item
        for relation, share in zip(relations, shares, strict=True)
        for item in relation_items(relation, split, share, choices, rng, dress)
    ]
