"""Instruction data (system, question, response): facts, groups, changes to words and sentences, sums."""

from collections.abc import Callable
from random import Random

from mosld.common.files import JsonObject
from mosld.data.bundled.arithmetic import word_problem
from mosld.data.bundled.item import capital, load


def groups_of(task: str, table: str) -> dict[str, list[str]]:
    """The groups of one committed table."""
    return next(entry["groups"] for entry in load(task) if entry["name"] == table)


def draw_fact(rng: Random) -> dict[str, str]:
    """A thing (e) with its use (v), and the use of something else (w)."""
    groups = groups_of("csqa", "use")
    value, other = rng.sample(list(groups), 2)
    return {"e": groups[value][0], "v": value, "w": other}


def draw_group(rng: Random) -> dict[str, str]:
    """Three members of a group (e, x, y) with its name (v), and a member (z) of another group (w)."""
    groups = groups_of("arc_e", rng.choice(["animal_group", "material_kind", "food_chain"]))
    value, other = rng.sample(list(groups), 2)
    first, second, third = rng.sample(groups[value], 3)
    return {"e": first, "x": second, "y": third, "z": rng.choice(groups[other]), "v": value, "w": other}


def draw_words(rng: Random) -> dict[str, str]:
    """A few words in several arrangements; one of them is longer than all others."""
    while True:
        words = rng.sample(load("openorca")["nouns"], rng.randint(3, 6))
        lengths = sorted(map(len, words))
        if lengths[-1] > lengths[-2]:
            break
    longest = max(words, key=len)
    return {
        "mixed": ", ".join(words),
        "sorted": ", ".join(sorted(words)),
        "reverse": ", ".join(reversed(words)),
        "upper": ", ".join(words).upper(),
        "bullets": "\n".join(f"- {word}" for word in words),
        "initials": ", ".join(word[0] for word in words),
        "count": str(len(words)),
        "longest": longest,
        "letters": str(len(longest)),
    }


def draw_rewrite(rng: Random) -> dict[str, str]:
    """Somebody who did something on some day."""
    parts = next(genre for genre in load("race") if genre["name"] == "fair")["parts"]
    past, base = rng.choice(parts["job"])
    return {"name": rng.choice(parts["name"]), "past": past, "base": base, "day": rng.choice(parts["day"])}


DRAWS: dict[str, Callable[[Random], dict[str, str]]] = {
    "fact": draw_fact,
    "group": draw_group,
    "words": draw_words,
    "rewrite": draw_rewrite,
}


def exchange(turn: int, rng: Random) -> tuple[str, str]:
    """One question with its response; the kinds take turns."""
    kinds = [*DRAWS, "sum"]
    kind = kinds[turn % len(kinds)]
    if kind == "sum":
        problem = rng.choice(load("gsm8k")["problems"])
        solved = word_problem(problem, rng.choice(problem["ask"]), rng)
        steps = solved["answer"].split("\n####")[0]
        return f"{solved['question']} Show your work.", f"{steps}\nThe answer is {solved['final']}."
    question, response = rng.choice(load("openorca")[kind])
    words = DRAWS[kind](rng)
    # {E} and {Sorted} are {e} and {sorted} with a capital.
    words |= {capital(name): capital(text) for name, text in words.items()}
    return capital(question.format(**words)), response.format(**words)


def instructions(count: int, rng: Random) -> list[JsonObject]:
    """`count` rows, no question twice."""
    rows: dict[str, dict[str, str]] = {}
    turn = 0
    while len(rows) < count:
        question, response = exchange(turn, rng)
        row = {"system": rng.choice(load("openorca")["systems"]), "question": question, "response": response}
        rows.setdefault(question, row)
        turn += 1
    return [{"id": f"openorca/train/{number}", **row} for number, row in enumerate(rows.values())]
