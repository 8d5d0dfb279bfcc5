"""The bundled data: every answer is right and no wrong choice is, worked out again from tables or text.

Relations are looked up in their groups, orders by place, food chains by simulation, sums step by step; of a
passage it is checked that each part stands together in the text, so that reading it answers the question.
"""

import re
from itertools import chain
from operator import add, floordiv, mul, sub
from random import Random

import pytest

from mosld.data.bundled import SIZES, generate, items
from mosld.data.bundled.item import Item, load
from mosld.data.bundled.reading import write_passage
from mosld.data.bundled.relation import Relation, split_templates

RELATIONAL = ("csqa", "arc_e", "obqa", "arc_c")
OPERATORS = {"+": add, "-": sub, "*": mul, "/": floordiv}


def relations(task: str) -> dict[str, Relation]:
    """The relations of a task by name."""
    tables = load(task)["groups"] if task == "arc_c" else load(task)
    plain = [{key: value for key, value in table.items() if key != "rules"} for table in tables]
    return {table["name"]: Relation(**table) for table in plain}


def named(question: str, names: list[str]) -> str:
    """The longest of the names that stands in the question."""
    found = [name for name in names if re.search(rf"\b{re.escape(name)}\b", question, re.IGNORECASE)]
    return max(found, key=len)


def relation_choices_that_fit(relation: Relation, form: str, item: Item) -> list[str]:
    """The choices that the table says are right."""
    value_of, choices = relation.value_of, (item.answer, *item.wrong)
    if form == "forward":
        return [c for c in choices if c == value_of[named(item.question, list(value_of))]]
    if form == "peer":
        return [c for c in choices if value_of[c] == value_of[named(item.question, list(value_of))]]
    value = named(item.question, list(relation.groups))
    return [c for c in choices if (value_of[c] == value) != (form == "negative")]


@pytest.mark.parametrize("task", RELATIONAL)
def test_table_makes_exactly_one_choice_right(task: str) -> None:
    known, checked = relations(task), 0
    for item in (item for split in SIZES[task] for item in items(task, split)):
        name, _, form = item.kind.partition("/")
        if name in known:
            checked += 1
            assert relation_choices_that_fit(known[name], form, item) == [item.answer], item
    assert checked > 300


@pytest.mark.parametrize("task", RELATIONAL)
def test_no_entity_has_two_values_in_a_table(task: str) -> None:
    for relation in relations(task).values():
        things = [thing for group in relation.groups.values() for thing in group]
        assert len(things) == len(set(things)), relation.name


def test_only_one_choice_is_on_the_asked_side_of_an_order() -> None:
    for table in load("arc_c")["orders"]:
        rank = {name: index for index, name in enumerate(table["items"])}
        for item in (item for split in SIZES["arc_c"] for item in items("arc_c", split)):
            if item.kind != f"{table['name']}/order":
                continue
            pivot = rank[named(item.question, table["items"])]
            sides = [rank[choice] > pivot for choice in (item.answer, *item.wrong)]
            assert sides.count(sides[0]) == 1, item


def numbers_after(member: int, push: float) -> list[float]:
    """The three numbers of a food chain after it was pushed: growth follows food and hunters."""
    state = [1.0, 1.0, 1.0]
    state[member] += push
    for _ in range(3):
        growth = [1 - state[1], state[0] - state[2], state[1] - 1]
        state = [
            now + (0.01 * rate if who != member else 0)
            for who, (now, rate) in enumerate(zip(state, growth, strict=True))
        ]
    return state


def test_food_chain_effects_agree_with_a_simulation() -> None:
    for item in (item for split in SIZES["arc_c"] for item in items("arc_c", split) if item.kind == "web"):
        web = next(web for web in load("arc_c")["webs"] if all(name in item.question.lower() for name in web))
        events = [
            (place, sign)
            for place in range(3)
            for sign, key in ((1, "web_more"), (-1, "web_fewer"))
            if any(event.format(x=web[place]) in item.question for event in load("arc_c")[key])
        ]
        assert len(events) == 1, item
        state = numbers_after(events[0][0], events[0][1] * 0.5)
        claims = {
            f"{word} {name}": (state[who] - 1) * sign > 0
            for who, name in enumerate(web)
            for word, sign in (("more", 1), ("fewer", -1))
        }
        assert [claims[choice] for choice in (item.answer, *item.wrong)] == [True, False, False, False], item


def test_question_names_the_part_of_a_study() -> None:
    book = load("arc_c")
    for item in (item for split in SIZES["arc_c"] for item in items("arc_c", split) if "study/" in item.kind):
        study = next(study for study in book["studies"] if study["aim"] in item.question)
        ends = {role: [re.split(r"\{n\}|\. ", t)[-1] for t in texts] for role, texts in book["roles"].items()}
        (role,) = (role for role, tails in ends.items() if item.question.endswith(tuple(tails)))
        assert item.answer == study[role], item


@pytest.mark.parametrize("task", ["race", "mctest"])
def test_entries_of_a_part_are_together_in_the_passage(task: str) -> None:
    for genre in load(task):
        for seed in range(20):
            passage = write_passage(genre, Random(seed))
            for part in passage.parts:
                said = [
                    value if isinstance(value, str) else value[0]
                    for name, value in part.items()
                    if name in genre["parts"]
                ]
                spots = [passage.text.lower().find(text.lower()) for text in said]
                span = passage.text[min(spots) : max(spots)]
                assert min(spots) >= 0, (said, passage.text)
                assert len(re.findall(r"[.!?] ", span)) <= 1, (said, passage.text)


@pytest.mark.parametrize("task", ["race", "mctest"])
def test_reading_answer_is_not_in_the_question(task: str) -> None:
    for item in items(task, "test"):
        assert item.answer not in item.wrong, item
        assert item.answer.lower() not in item.question.lower(), item


def test_worked_steps_are_right_and_end_in_the_final_number() -> None:
    for row in (row for rows in generate("gsm8k").values() for row in rows):
        steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", row["answer"])
        assert len(steps) == row["answer"].count("="), row
        assert all(OPERATORS[sign](int(left), int(right)) == int(result) for left, sign, right, result in steps), row
        assert all(int(left) % int(right) == 0 for left, sign, right, _ in steps if sign == "/"), row
        assert row["answer"].endswith(f"\n#### {row['final']}"), row
        assert steps[-1][3] == row["final"], row


def test_templates_are_divided_without_rest_or_sharing() -> None:
    templates = list(range(9))
    shares = [split_templates(templates, "key", split) for split in ("train", "validation", "test")]
    assert sorted(chain.from_iterable(shares)) == templates


def test_too_few_templates_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be divided"):
        split_templates(["a", "b"], "key", "train")


def test_context_of_a_case_has_its_rule_and_two_others() -> None:
    rules = {value: texts for table in load("obqa") for value, texts in table["rules"].items()}
    for item in (item for split in SIZES["obqa"] for item in items("obqa", split)):
        stated = {value for value, texts in rules.items() if any(text in item.context for text in texts)}
        if item.kind.endswith("/forward"):
            assert len(stated) == 3, item
            assert item.answer in stated, item
            assert stated < {item.answer, *item.wrong}, item
        else:
            assert len(stated) == 1, item


@pytest.mark.parametrize("task", ["csqa", "arc_e"])
def test_every_split_has_negated_questions(task: str) -> None:
    for split in SIZES[task]:
        assert any(item.kind.endswith("/negative") for item in items(task, split)), split
