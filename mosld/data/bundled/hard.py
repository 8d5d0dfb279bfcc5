"""Hard science questions: terms and two-step groups, comparisons, plans of experiments, effects along food chains."""

from collections.abc import Iterator
from itertools import product
from random import Random

from mosld.data.bundled.item import Balance, Item, capital, load
from mosld.data.bundled.relation import Relation, dealt, different, divide, table_items

SHARE = {"groups": 0.66, "orders": 0.18, "studies": 0.1, "webs": 0.06}
"""Which part of the questions comes from which kind of table."""


def order_items(table: dict, split: str, choices: int, rng: Random) -> Iterator[Item]:
    """Which thing lies above (or below) {e} in an order? The right choice does, and no other does."""
    items, balance = table["items"], Balance(rng)
    while True:
        for place, direction in rng.sample(pairs := list(product(range(len(items)), ("more", "less"))), len(pairs)):
            above, below = items[place + 1 :], items[:place]
            right, wrong = (above, below) if direction == "more" else (below, above)
            if not right or len(wrong) < choices - 1:
                continue
            pivot = items[place]
            template = rng.choice(dealt(table[direction], f"{table['name']}/{direction}/{pivot}", split))
            answer = balance.answer(right)
            question = capital(template.format(e=pivot, E=capital(pivot)))
            yield Item(f"{table['name']}/order", question, answer, balance.distractors(answer, wrong, choices - 1))


def study_items(book: dict, split: str, rng: Random) -> Iterator[Item]:
    """Which part does a thing play in a fair test? A study's four things are the choices, right in turn."""
    while True:
        for study, role in rng.sample(pairs := list(product(book["studies"], book["roles"])), len(pairs)):
            wordings = list(product(book["roles"][role], book["aims"]))
            question, opening = rng.choice(dealt(wordings, f"study/{study['aim']}/{role}", split))
            name = rng.choice(book["students"])
            aim = opening.format(n=name, aim=study["aim"])
            wrong = tuple(study[other] for other in book["roles"] if other != role)
            yield Item(f"study/{role}", question.format(aim=aim, n=name), study[role], wrong)


def effects(place: int, sign: int) -> dict[int, int]:
    """What happens to the other two of a three-part chain if member `place` grows (+1) or shrinks (-1).

    What is eaten moves against its eater, and an eater with its food; plants and hunters move together.
    """
    return {0: {1: sign, 2: sign}, 1: {0: -sign, 2: sign}, 2: {1: -sign, 0: sign}}[place]


def web_items(book: dict, split: str, rng: Random) -> Iterator[Item]:
    """What follows for the others when one member of a food chain grows or shrinks in number?"""
    cases = list(product(book["webs"], range(3), (1, -1)))
    while True:
        for web, place, sign in rng.sample(cases, len(cases)):
            events = book["web_more"] if sign > 0 else book["web_fewer"]
            wordings = list(product(book["web_setting"], events, book["web_ask"]))
            setting, event, ask = rng.choice(dealt(wordings, f"web/{web}/{place}/{sign}", split))
            a, b, c = web
            text = setting.format(a=a, b=b, c=c, C=capital(c)), event.format(x=web[place]), ask
            says = {(who, way): f"{'more' if way > 0 else 'fewer'} {web[who]}" for who in range(3) for way in (1, -1)}
            true = effects(place, sign)
            for who, way in true.items():
                wrong = [says[other, -its] for other, its in true.items()] + [says[place, -sign]]
                yield Item("web", " ".join(text), says[who, way], tuple(wrong))


def hard_items(task: str, split: str, count: int, rng: Random) -> list[Item]:
    """`count` hard questions of four choices, from all four kinds of table."""
    book = load(task)
    groups, orders, studies, webs = divide(count, list(SHARE.values()))
    found = table_items([Relation(**table) for table in book["groups"]], split, groups, 4, rng)
    for table, share in zip(book["orders"], divide(orders, [len(t["items"]) for t in book["orders"]]), strict=True):
        found += different(order_items(table, split, 4, rng), share)
    found += different(study_items(book, split, rng), studies)
    return found + different(web_items(book, split, rng), webs)
