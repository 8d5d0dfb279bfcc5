"""Arithmetic word problems with worked steps (each holds `a op b = c`) and the final number after `####`."""

import re
from operator import add, mul, sub, truediv
from random import Random
from typing import Any

from mosld.data.bundled.item import load

OPERATORS = {"+": add, "-": sub, "*": mul, "/": truediv}
TRIES = 200


def solve(problem: dict[str, Any], rng: Random) -> tuple[dict[str, int], list[str]] | None:
    """Draw the numbers and work out the steps; None where a result is not a whole number above zero."""
    numbers = {name: rng.randint(low, high) for name, (low, high) in problem["draw"].items()}
    shown = []
    for name, left, sign, right, _ in problem["steps"]:
        result = OPERATORS[sign](numbers[left], numbers[right])
        if result <= 0 or result != int(result):
            return None
        numbers[name] = int(result)
        shown.append(f"{numbers[left]} {sign} {numbers[right]} = {numbers[name]}")
    return numbers, shown


def word_problem(problem: dict[str, Any], question: str, rng: Random) -> dict[str, str]:
    """One problem as question, worked answer and final number."""
    book = load("gsm8k")
    name, friend = rng.sample(book["names"], 2)
    words = {"name": name, "friend": friend, "things": rng.choice(book["things"])}
    for _ in range(TRIES):
        solved = solve(problem, rng)
        if solved:
            numbers, shown = solved
            steps = [step[4].format(s=text, **words) for step, text in zip(problem["steps"], shown, strict=True)]
            final = str(numbers[problem["steps"][-1][0]])
            answer = "\n".join([*steps, f"#### {final}"])
            return {"question": question.format(**numbers, **words), "answer": answer, "final": final}
    raise ValueError(f"no whole-number draw in {TRIES} tries for {question!r}")


def home(kind: int, answer: str) -> str:
    """The split that owns a problem. Its numbers decide, so that a change of names cannot move it."""
    numbers = " ".join(re.findall(r"\d+", answer))
    return "test" if Random(f"{kind}: {numbers}").random() < 0.2 else "train"


def word_problems(split: str, count: int, rng: Random) -> list[dict[str, str]]:
    """`count` different problems, every kind in turn; the numbers of a problem stand in one split only."""
    problems = load("gsm8k")["problems"]
    found: dict[str, dict[str, str]] = {}
    while len(found) < count:
        kind = len(found) % len(problems)
        problem = problems[kind]
        row = word_problem(problem, rng.choice(problem["ask"]), rng)
        if split == home(kind, row["answer"]):
            found.setdefault(row["question"], row)
    return [{"id": f"gsm8k/{split}/{number}", **row} for number, row in enumerate(found.values())]
