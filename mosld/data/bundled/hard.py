"""Hard science questions: two-step groups, comparisons, plans of experiments, effects along food chains."""

from collections.abc import Iterator
from itertools import product
from random import Random

from mosld.common.files import JsonObject
from mosld.data.bundled.item import Balance, Item, capital, distinct, load
from mosld.data.bundled.relation import Relation, divide, split_templates, table_items

CHOICES = 4
# The share of the questions that each sort of table gives.
SHARES = {"groups": 0.66, "orders": 0.18, "studies": 0.1, "webs": 0.06}


def order_items(table: JsonObject, split: str, rng: Random) -> Iterator[Item]:
    """Which thing is above (or below) {e} in an order? The right choice is, and no other."""
    things = table["items"]
    balance = Balance(rng)
    cases = list(product(range(len(things)), ("more", "less")))
    while True:
        for rank, direction in rng.sample(cases, len(cases)):
            above, below = things[rank + 1 :], things[:rank]
            right, wrong = (above, below) if direction == "more" else (below, above)
            if not right or len(wrong) < CHOICES - 1:
                continue
            pivot = things[rank]
            template = rng.choice(split_templates(table[direction], f"{table['name']}/{direction}/{pivot}", split))
            answer = balance.answer(right)
            question = capital(template.format(e=pivot, E=capital(pivot)))
            yield Item(f"{table['name']}/order", question, answer, balance.distractors(answer, wrong, CHOICES - 1))


def study_items(book: JsonObject, split: str, rng: Random) -> Iterator[Item]:
    """Which part does a thing play in a fair test? A study's four things are the choices, right in turn."""
    cases = list(product(book["studies"], book["roles"]))
    while True:
        for study, role in rng.sample(cases, len(cases)):
            templates = list(product(book["roles"][role], book["aims"]))
            question, opening = rng.choice(split_templates(templates, f"study/{study['aim']}/{role}", split))
            name = rng.choice(book["students"])
            aim = opening.format(n=name, aim=study["aim"])
            wrong = tuple(study[other] for other in book["roles"] if other != role)
            yield Item(f"study/{role}", question.format(aim=aim, n=name), study[role], wrong)


def effects(member: int, sign: int) -> dict[int, int]:
    """The signs of change of the other two of a three-part food chain if `member` grows (+1) or shrinks (-1).

    Prey moves against its predator, and a predator with its prey; plants and top predators move together.
    """
    return {0: {1: sign, 2: sign}, 1: {0: -sign, 2: sign}, 2: {1: -sign, 0: sign}}[member]


def web_items(book: JsonObject, split: str, rng: Random) -> Iterator[Item]:
    """What happens to the others when one member of a food chain grows or shrinks in number?"""
    cases = list(product(book["webs"], range(3), (1, -1)))
    while True:
        for web, member, sign in rng.sample(cases, len(cases)):
            events = book["web_more"] if sign > 0 else book["web_fewer"]
            templates = list(product(book["web_setting"], events, book["web_ask"]))
            setting, event, ask = rng.choice(split_templates(templates, f"web/{web}/{member}/{sign}", split))
            a, b, c = web
            question = " ".join((setting.format(a=a, b=b, c=c, C=capital(c)), event.format(x=web[member]), ask))
            claims = {(who, way): f"{'more' if way > 0 else 'fewer'} {web[who]}" for who in range(3) for way in (1, -1)}
            changes = effects(member, sign)
            for who, way in changes.items():
                wrong = [claims[other, -change] for other, change in changes.items()] + [claims[member, -sign]]
                yield Item("web", question, claims[who, way], tuple(wrong))


def hard_items(task: str, split: str, count: int, rng: Random) -> list[Item]:
    """`count` hard questions of four choices, from all four sorts of table."""
    book = load(task)
    groups, orders, studies, webs = divide(count, list(SHARES.values()))
    items = table_items([Relation(**table) for table in book["groups"]], split, groups, CHOICES, rng)
    sources = [
        *zip(
            (order_items(table, split, rng) for table in book["orders"]),
            divide(orders, [len(table["items"]) for table in book["orders"]]),
            strict=True,
        ),
        (study_items(book, split, rng), studies),
        (web_items(book, split, rng), webs),
    ]
    for source, share in sources:
        items += distinct(source, share)
    return items
