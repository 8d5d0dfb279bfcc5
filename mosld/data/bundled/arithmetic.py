"""Arithmetic word problems with worked steps (each holds `a op b = c`) and the final number after `####`."""

import re
from operator import add, mul, sub, truediv
from random import Random

from mosld.common.files import JsonObject
from mosld.data.bundled.item import load

OPERATORS = {"+": add, "-": sub, "*": mul, "/": truediv}
MAX_DRAWS = 200


def draw_steps(problem: JsonObject, rng: Random) -> tuple[dict[str, int], list[str]] | None:
    """Draw the numbers and compute the steps; None if a result is not a whole number above zero."""
    numbers = {name: rng.randint(low, high) for name, (low, high) in problem["draw"].items()}
    steps = []
    for name, left, sign, right, _ in problem["steps"]:
        result = OPERATORS[sign](numbers[left], numbers[right])
        if result <= 0 or result != int(result):
            return None
        numbers[name] = int(result)
        steps.append(f"{numbers[left]} {sign} {numbers[right]} = {numbers[name]}")
    return numbers, steps


def word_problem(problem: JsonObject, question: str, rng: Random) -> dict[str, str]:
    """One problem as question, worked answer and final number."""
    book = load("gsm8k")
    name, friend = rng.sample(book["names"], 2)
    words = {"name": name, "friend": friend, "things": rng.choice(book["things"])}
    for _ in range(MAX_DRAWS):
        drawn = draw_steps(problem, rng)
        if drawn:
            numbers, steps = drawn
            lines = [step[4].format(s=text, **words) for step, text in zip(problem["steps"], steps, strict=True)]
            final = str(numbers[problem["steps"][-1][0]])
            answer = "\n".join([*lines, f"#### {final}"])
            return {"question": question.format(**numbers, **words), "answer": answer, "final": final}
    raise ValueError(f"no whole numbers in {MAX_DRAWS} draws for {question!r}")


def split_of(kind: int, answer: str) -> str:
    """The split of a problem. Its numbers decide, so that a change of names cannot move it."""
    numbers = " ".join(re.findall(r"\d+", answer))
    return "test" if Random(f"{kind}: {numbers}").random() < 0.2 else "train"


def word_problems(split: str, count: int, rng: Random) -> list[JsonObject]:
    """`count` different problems of all kinds in turn; the numbers of a problem are in one split only."""
    problems = load("gsm8k")["problems"]
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        kind = len(rows) % len(problems)
        problem = problems[kind]
        row = word_problem(problem, rng.choice(problem["ask"]), rng)
        if split == split_of(kind, row["answer"]):
            rows.setdefault(row["question"], row)
    return [{"id": f"gsm8k/{split}/{number}", **row} for number, row in enumerate(rows.values())]
