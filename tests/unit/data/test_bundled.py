"""The bundled data: the same everywhere, well formed, split cleanly, and not solvable by surface cues.

The surface cues are tried as a lazy model would use them: always one position, the longest or shortest
option, and the words of right answers (a naive Bayes trained on the options of train without their questions).
"""

import hashlib
import json
import math
import re
from collections import Counter
from functools import cache

import pytest

from mosld.data.bundled import ITEMS, SIZES, TASKS, generate, items

CHOICE_TASKS = [*ITEMS, "mmlu"]
READING = ("race", "mctest")
SLACK = 0.02
"""Added to two binomial standard errors where a cue is compared with chance."""


@cache
def data(task: str) -> dict[str, list[dict]]:
    """The rows of a task, made once for all tests."""
    return generate(task)


def heldout(task: str) -> list[dict]:
    """The rows a task is evaluated on."""
    return data(task).get("test") or data(task)["validation"]


def test_rows_are_those_of_earlier_results() -> None:
    """Results on different rows cannot be compared: a change of any row needs a reason and a new digest.

    Python's hash seed differs in every process, so this also shows that the rows do not depend on it.
    """
    text = json.dumps({task: generate(task) for task in TASKS}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "0547dd61a558f5a2bd6196d22fc40c50e9875726b7df810cf44452343df702e1"


def test_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="no bundled task 'nope'"):
        generate("nope")


@pytest.mark.parametrize("task", list(SIZES))
def test_splits_have_the_declared_sizes(task: str) -> None:
    assert {split: len(rows) for split, rows in data(task).items()} == SIZES[task]


def test_mmlu_has_five_examples_for_each_of_many_subjects() -> None:
    subjects = Counter(row["id"].split("/")[0] for row in data("mmlu")["dev"])
    assert len(subjects) >= 8
    assert set(subjects.values()) == {5}


@pytest.mark.parametrize("task", TASKS)
def test_rows_have_the_documented_form_and_an_id_of_their_own(task: str) -> None:
    keys = {"gsm8k": ["question", "answer", "final"], "openorca": ["system", "question", "response"]}
    rows = [row for split in data(task).values() for row in split]
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert list(row) == ["id", *keys.get(task, ["context", "question", "choices", "answer"])], row
        assert all(row[key] for key in ("question", "response") if key in row), row
        if task in CHOICE_TASKS:
            texts = {choice.strip().lower() for choice in row["choices"]} - {""}
            assert len(texts) == len(row["choices"]) == (5 if task == "csqa" else 4), row
            assert 0 <= row["answer"] < len(row["choices"]), row
        # No unfilled slot, no wrong space or article.
        text = " | ".join(str(value) for value in row.values() if value and not isinstance(value, int))
        assert not re.search(r"[{}]|  |\.\.(?!\.)| \.| ,|\ba [aeio]|\ban [^aeiouhXFPA]", text), text


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_no_question_and_no_passage_is_in_two_splits(task: str) -> None:
    keys = ["context"] if task in READING else ["context", "question"]
    asked = [{tuple(row[key] for key in keys) for row in rows} for rows in data(task).values()]
    assert sum(map(len, asked)) == len(set().union(*asked))


@pytest.mark.parametrize("task", ["gsm8k", "openorca"])
def test_no_free_question_comes_twice(task: str) -> None:
    asked = [row["question"] for rows in data(task).values() for row in rows]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_answers_are_balanced_over_positions(task: str) -> None:
    for rows in list(data(task).values())[: 1 if task == "mmlu" else None]:
        counts = Counter(row["answer"] for row in rows)
        spread = max(counts.values()) - min(counts.values())
        assert spread <= (len(rows) // 5 if task == "mmlu" else 1), counts


def features(choice: str) -> list[str]:
    """What a model that sees only an option could use: its words, its whole text, its length."""
    return [*re.findall(r"\w+", choice.lower()), f"={choice}", f"#{len(choice) // 5}"]


def naive_bayes(train: list[dict], test: list[dict]) -> list[int]:
    """Which option of each test row has the features that right answers had in train."""
    seen = {True: Counter[str](), False: Counter[str]()}
    for row in train:
        for index, choice in enumerate(row["choices"]):
            seen[index == row["answer"]].update(features(choice))
    width = len(train[0]["choices"])

    def score(choice: str) -> float:
        return sum(math.log((seen[True][f] + 1) / (seen[False][f] + width - 1)) for f in features(choice))

    return [max(range(width), key=lambda index: score(row["choices"][index])) for row in test]


def guesses(task: str, cue: str) -> list[int]:
    """The option of each held-out row that a cue points at."""
    rows = heldout(task)
    if cue == "words":
        return naive_bayes(data(task).get("train") or data(task)["dev"], rows)
    if cue == "first":
        return [0] * len(rows)
    sign = 1 if cue == "longest" else -1
    return [max(range(len(row["choices"])), key=lambda p: sign * len(row["choices"][p])) for row in rows]


def bound(rows: list[dict]) -> float:
    """The accuracy that a guess stays under: chance, two binomial standard errors and a little slack."""
    chance = 1 / len(rows[0]["choices"])
    return chance + 2 * math.sqrt(chance * (1 - chance) / len(rows)) + SLACK


@pytest.mark.parametrize("cue", ["words", "first", "longest", "shortest"])
@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_surface_cues_stay_near_chance(task: str, cue: str) -> None:
    rows = heldout(task)
    right = sum(guess == row["answer"] for guess, row in zip(guesses(task, cue), rows, strict=True))
    assert right / len(rows) < bound(rows)


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("task", READING)
def test_order_in_the_passage_is_no_cue(task: str, rank: int) -> None:
    rows = [row for row in heldout(task) if all(mentions(row))]
    right = sum(sorted(mentions(row))[rank] == mentions(row)[row["answer"]] for row in rows)
    assert right / len(rows) < bound(rows)


def core(choice: str) -> str:
    """The part of a reading choice that the passage must have, without the words that join it on."""
    text = re.sub(r"^(someone|to|at|from|in|how people prepared) (?=[A-Z]|the |a |an |\w+ed |\w+)", "", choice)
    return text.lower()


def mentions(row: dict) -> list[int]:
    """Where each choice is first mentioned in the passage, from 1; 0 for one that is not."""
    return [row["context"].lower().find(core(choice)) + 1 for choice in row["choices"]]


@pytest.mark.parametrize("task", READING)
def test_passage_has_all_words_of_the_right_answer(task: str) -> None:
    for item in (item for split in SIZES[task] for item in items(task, split)):
        assert set(re.findall(r"\w+", core(item.answer))) <= set(re.findall(r"\w+", item.context.lower())), item


@pytest.mark.parametrize("task", READING)
def test_passages_have_the_length_of_the_task(task: str) -> None:
    low, high = (120, 220) if task == "race" else (60, 110)
    lengths = [len(row["context"].split()) for rows in data(task).values() for row in rows]
    assert low <= min(lengths)
    assert max(lengths) <= high
