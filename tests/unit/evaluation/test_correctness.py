"""Whether an answer is right: replies by their text, solutions by their number, and gsm8k as lm-evaluation-harness."""

import json
from pathlib import Path

import pytest

from mosld.data.rows import Reply
from mosld.evaluation.correctness import same_number, same_text
from mosld.evaluation.generation import _prediction

PAIRS = [
    json.loads(line) for line in Path(__file__).with_name("reply_pairs.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize(("script", "same", "answer", "expected"), PAIRS)
def test_replies_are_compared_as_written_but_for_case_space_and_the_marks_around_them(script, same, answer, expected):
    assert same_text(answer, expected) is same
    assert same_text(expected, answer) is same
    if answer.strip() and expected.strip():
        assert _prediction(Reply("own", "1", "", "?", expected), f" {answer}\n").correct is same


def test_the_pairs_are_varied():
    assert len(PAIRS) >= 200
    assert len({pair[0] for pair in PAIRS}) >= 12
    assert {pair[1] for pair in PAIRS} == {True, False}


@pytest.mark.parametrize("text", ['"' * 20_000, ". " * 20_000, '".' * 5_000, "(" * 20_000, "¿" * 20_000])
def test_a_reply_of_nothing_but_marks_is_compared(text):
    assert not same_text(text, "Paris")


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("72", "72", True), ("72.0", "72", True), ("$72", "72", True), ("72.00%", "72", True), ("$1,200", "1200", True),
        ("73", "72", False), ("", "72", False), ("seventy", "72", False), (None, "72", False),
        ("12%", "0.12", True), ("0.12", "12%", True), ("1%", "0.01%", False), ("1%", "1%", True),
        ("12%", "1.2", False),
        (r"\frac{3}{4}", "0.75", True), ("0.33", "1/3", False), ("-72", "72", False),
        (r"\sqrt{2}", "1.41421356", False),
    ],
)  # fmt: skip
def test_numbers_are_compared_by_value(answer, expected, same):
    assert same_number(answer, expected) is same
