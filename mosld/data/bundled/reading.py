"""Reading tasks: passages put together from parts, and questions whose answers must be read in them.

A passage has four or five parts; a part binds one entry of every pool (a name, what that person did, why).
A question names one entry of a part and asks for another one; the wrong choices are the same phrase of the
other parts. So every choice stands in the passage, and only the part that the question names is right.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from random import Random
from typing import Any

from mosld.data.bundled.item import Item, capital, load
from mosld.data.bundled.relation import Relation, table_items

# PART: Reading tasks: passages put together from parts, and questions whose answers must be read in them. A passage
# has four or five parts; a part binds one entry of every pool (a name, what that person did, why). A question names
# one entry of a part and asks for another one; the wrong choices are the same phrase of the other parts. So every
# choice stands in the passage, and only the part that the question names is right.


NTH = ("First", "Next", "After that", "Then", "Last of all")
QUESTIONS_PER_PASSAGE = 2
CHOICES = 4


@dataclass(frozen=True)
class Passage:
    """A text with what was bound to each of its parts, in the order of the text."""

    genre: dict[str, Any]
    text: str
    whole: dict[str, Any]
    parts: list[dict[str, Any]]


def spoken(template: str, values: dict[str, Any]) -> str:
    """The template filled in; a name with a capital, as {Day}, gives its value with a capital."""
    raised = {capital(name): capital(value) for name, value in values.items() if isinstance(value, str)}
    return template.format(**values, **raised)


def write(genre: dict[str, Any], rng: Random) -> Passage:
    """Draw what the passage is about and write it."""
    whole = {name: rng.choice(pool) for name, pool in genre["whole"].items()}
    if "topic" in genre:
        pool = genre["whole"][genre["topic"]["pool"]]
        whole["other"] = rng.choice([entry for entry in pool if entry not in whole.values()])
    size = genre["size"]
    columns = {name: rng.sample(pool, size) for name, pool in genre["parts"].items()}
    parts = [{**whole, **{name: column[row] for name, column in columns.items()}} for row in range(size)]
    frames = [frame for bag in genre["each"] for frame in rng.sample(bag, len(bag))]
    nth = [*NTH[: size - 1], NTH[-1]]
    sentences = [spoken(frames[row % len(frames)], {**parts[row], "nth": nth[row]}) for row in range(size)]
    opening, closing = (spoken(rng.choice(genre[end]), whole) for end in ("opening", "closing"))
    return Passage(genre, " ".join([opening, *sentences, closing]), whole, parts)


def topic_item(passage: Passage, rng: Random) -> Item:
    """The question for the main idea. One wrong choice is named in the passage, too."""
    topic = passage.genre["topic"]
    right = passage.whole[topic["pool"]]
    others = [entry for entry in passage.genre["whole"][topic["pool"]] if entry not in (right, passage.whole["other"])]
    wrong = [passage.whole["other"], *rng.sample(others, CHOICES - 2)]
    said = [topic["answer"].format(**{topic["pool"]: entry}) for entry in (right, *wrong)]
    return Item(
        "topic",
        rng.choice(["What is the passage mainly about?", "What does the text tell us?"]),
        said[0],
        tuple(said[1:]),
        passage.text,
    )


def detail_item(passage: Passage, question: dict[str, str], rng: Random) -> Item:
    """A question about one part, or about the part next to it (`of`)."""
    row = rng.randrange(len(passage.parts))
    step = {"next": 1, "previous": -1}.get(question.get("of", ""), 0)
    if not 0 <= row + step < len(passage.parts):
        row += -step
    said = [spoken(question["answer"], part) for part in passage.parts]
    others = [text for place, text in enumerate(said) if place != row + step and (not step or place != row)]
    wrong = tuple(rng.sample(others, CHOICES - 1))
    return Item(question["answer"], spoken(question["ask"], passage.parts[row]), said[row + step], wrong, passage.text)


def reading_items(task: str, split: str, count: int, rng: Random) -> list[Item]:
    """`count` questions on passages of the task's genres in turn, a few on each passage."""
    found: list[Item] = []
    genres = cycle(load(task))
    while len(found) < count:
        passage = write(next(genres), rng)
        asked = rng.sample(passage.genre["questions"], QUESTIONS_PER_PASSAGE)
        found += [detail_item(passage, question, rng) for question in asked]
        if "topic" in passage.genre and rng.random() < 0.5:
            found[-1] = topic_item(passage, rng)
    return found[:count]


# PART: Open-book questions: the context states general rules, the question is about a case of one of them.


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
