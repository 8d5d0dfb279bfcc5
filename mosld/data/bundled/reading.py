"""Reading tasks: passages composed of parts, with questions that are answered by reading them.

A passage has four or five parts. A part binds one entry of every pool (a name, what that person did, why). A question
names one entry of a part and asks for another one; the wrong choices are the same phrase of the other parts. So every
choice is in the passage, and only that of the named part is right.

Open-book questions have general rules as their context, and ask about a case of one of them.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from random import Random

from mosld.common.files import JsonObject
from mosld.data.bundled.item import Item, capital, load
from mosld.data.bundled.relation import Relation, table_items

ORDER_WORDS = ("First", "Next", "After that", "Then", "Last of all")
QUESTIONS_PER_PASSAGE = 2
CHOICES = 4


@dataclass(frozen=True)
class Passage:
    """A text with the entries of each of its parts, in the order of the text."""

    genre: JsonObject
    text: str
    whole: JsonObject
    parts: list[JsonObject]


def fill(template: str, values: JsonObject) -> str:
    """Fill in a template; a name with a capital, as {Day}, gives its value with a capital."""
    capitals = {capital(name): capital(value) for name, value in values.items() if isinstance(value, str)}
    return template.format(**values, **capitals)


def write_passage(genre: JsonObject, rng: Random) -> Passage:
    """Draw the entries of a passage and write it."""
    whole = {name: rng.choice(pool) for name, pool in genre["whole"].items()}
    if "topic" in genre:
        pool = genre["whole"][genre["topic"]["pool"]]
        whole["other"] = rng.choice([entry for entry in pool if entry not in whole.values()])
    size = genre["size"]
    columns = {name: rng.sample(pool, size) for name, pool in genre["parts"].items()}
    parts = [{**whole, **{name: column[row] for name, column in columns.items()}} for row in range(size)]
    frames = [frame for bag in genre["each"] for frame in rng.sample(bag, len(bag))]
    order_words = [*ORDER_WORDS[: size - 1], ORDER_WORDS[-1]]
    sentences = [fill(frames[row % len(frames)], {**parts[row], "nth": order_words[row]}) for row in range(size)]
    opening, closing = (fill(rng.choice(genre[end]), whole) for end in ("opening", "closing"))
    return Passage(genre, " ".join([opening, *sentences, closing]), whole, parts)


def topic_item(passage: Passage, rng: Random) -> Item:
    """The question for the main idea. One wrong choice is named in the passage, too."""
    topic = passage.genre["topic"]
    pool = passage.genre["whole"][topic["pool"]]
    right = passage.whole[topic["pool"]]
    mentioned = passage.whole["other"]
    wrong = [mentioned, *rng.sample([entry for entry in pool if entry not in (right, mentioned)], CHOICES - 2)]
    choices = [topic["answer"].format(**{topic["pool"]: entry}) for entry in (right, *wrong)]
    question = rng.choice(["What is the passage mainly about?", "What does the text tell us?"])
    return Item("topic", question, choices[0], tuple(choices[1:]), passage.text)


def detail_item(passage: Passage, question: dict[str, str], rng: Random) -> Item:
    """A question about one part, or about the part next to it (`of`)."""
    row = rng.randrange(len(passage.parts))
    step = {"next": 1, "previous": -1}.get(question.get("of", ""), 0)
    if not 0 <= row + step < len(passage.parts):
        row -= step
    phrases = [fill(question["answer"], part) for part in passage.parts]
    others = [phrase for index, phrase in enumerate(phrases) if index not in (row, row + step)]
    wrong = tuple(rng.sample(others, CHOICES - 1))
    return Item(question["answer"], fill(question["ask"], passage.parts[row]), phrases[row + step], wrong, passage.text)


def reading_items(task: str, _split: str, count: int, rng: Random) -> list[Item]:
    """`count` questions on passages of the task's genres in turn, a few on each passage."""
    items: list[Item] = []
    genres = cycle(load(task))
    while len(items) < count:
        passage = write_passage(next(genres), rng)
        questions = rng.sample(passage.genre["questions"], QUESTIONS_PER_PASSAGE)
        items += [detail_item(passage, question, rng) for question in questions]
        if "topic" in passage.genre and rng.random() < 0.5:
            items[-1] = topic_item(passage, rng)
    return items[:count]


def add_rules(rules: dict[str, list[str]], relation: Relation, item: Item, rng: Random) -> Item:
    """The item with its rules as context.

    A question about a case gets the rule that decides it and two other rules of the family, in any order, so that
    repeating the context is not enough. A question for a case of a rule gets that rule only.
    """
    if item.kind.endswith("/forward"):
        values = [item.answer, *rng.sample(item.wrong, 2)]
    else:
        values = [relation.value_of[item.answer]]
    rng.shuffle(values)
    return replace(item, context=" ".join(rng.choice(rules[value]) for value in values))


def open_book_items(task: str, split: str, count: int, rng: Random) -> list[Item]:
    """`count` questions with their rules, over all families of rules."""
    rules: dict[str, list[str]] = {}
    relations: list[Relation] = []
    for table in load(task):
        relations.append(Relation(**{key: value for key, value in table.items() if key != "rules"}))
        rules |= table["rules"]
    return table_items(relations, split, count, 4, rng, partial(add_rules, rules))
