"""Open-book questions: the context states general rules, the question is about a case of one of them."""

from dataclasses import replace
from functools import partial
from random import Random

from .facts import load
from .item import Item
from .relation import Relation, table_items


def with_book(rules: dict[str, list[str]], relation: Relation, item: Item, rng: Random) -> Item:
    """The item with its context.

    A question about a case gets the rule that decides it and two other rules of the family, in any order, so
    that repeating the context is not enough. A question for a case of a rule gets that rule alone.
    """
    if item.kind.endswith("/forward"):
        pages = [item.answer, *rng.sample(item.wrong, 2)]
    else:
        pages = [relation.value_of[item.answer]]
    rng.shuffle(pages)
    return replace(item, context=" ".join(rng.choice(rules[page]) for page in pages))


def open_book_items(task: str, split: str, count: int, rng: Random) -> list[Item]:
    """`count` questions with their book, over all families of rules."""
    rules: dict[str, list[str]] = {}
    relations: list[Relation] = []
    for table in load(task):
        relations.append(Relation(**{key: value for key, value in table.items() if key != "rules"}))
        rules |= table["rules"]
    return table_items(relations, split, count, 4, rng, partial(with_book, rules))
