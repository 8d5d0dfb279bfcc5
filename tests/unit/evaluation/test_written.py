"""Replies in free words: where one ends, what of it counts, when it is right; scores by subject."""

import pytest

from mosld.data.rows import Reply, Row, Solution
from mosld.evaluation.correctness import same_text
from mosld.evaluation.generation import DONE, NEXT, Answered, NumberPrediction, ReplyPrediction, _answer, _judge
from mosld.evaluation.scores import by_subject, task_score

ONE_LINE = Reply("chat", "1", "", "Capital of France?", "Paris.")
LINES = Reply("chat", "2", "", "Count.", "one\ntwo")


@pytest.mark.parametrize(
    ("written", "right", "same"),
    [
        ("Paris", "paris.", True), (" The  sun ", "the sun", True), ("“Paris”", "Paris", True), ("3.5", "35", False),
        ("Paris is", "Paris", False), ("", "Paris", False), ("", "", True), ("!", "?", False), ("É", "é", True),
    ],
)  # fmt: skip
def test_replies_are_the_same_case_space_and_outer_punctuation_aside(written, right, same):
    assert same_text(written, right) is same


@pytest.mark.parametrize(
    ("row", "text", "answer", "correct"),
    [
        (ONE_LINE, " Paris\nIt lies in France.", "Paris", True),
        (ONE_LINE, " Paris\nQuestion: And of Italy?", "Paris", True),
        (ONE_LINE, " Rome", "Rome", False),
        (LINES, " one\ntwo\nQuestion: next", "one\ntwo", True),
        (LINES, " one", "one", False),
    ],
)
def test_of_a_reply_the_first_line_counts_where_the_response_has_one(row, text, answer, correct):
    said = _answer(row, text)
    assert _judge(row, said) == ReplyPrediction(row.id, answer, correct)


def test_each_sequence_of_a_batch_has_its_own_ending(tokenizer):
    texts = ["#### 7\nmore", "#### 7\nmore", "x\nQuestion: "]
    width = max(map(len, texts))
    ids = tokenizer([text.ljust(width) for text in texts], return_tensors="pt").input_ids
    assert Answered(tokenizer, 0, [DONE, NEXT, NEXT])(ids, None).tolist() == [True, False, True]


def test_the_score_of_replies_is_the_share_that_are_right():
    rows = [Reply("chat", str(i), "", "Q?", "yes") for i in range(4)]
    outcomes = [
        ReplyPrediction("0", "Yes.", True),
        ReplyPrediction("1", "no", False),
        ReplyPrediction("2", "", False),
        ReplyPrediction("3", "yes", True),
    ]
    for style in ("letter", "cloze"):
        score = task_score(rows, outcomes, style)
        assert (score["accuracy"], score["n"], sorted(score)) == (0.5, 4, ["accuracy", "n", "stderr"])


def test_scores_by_subject_and_category_are_those_of_their_questions():
    names = ["anatomy/test/0", "virology/test/0", "anatomy/test/1", "astronomy/test/0"]
    rows = [Solution("mmlu", name, "", "Q?", "#### 1", "1") for name in names]
    outcomes = [
        NumberPrediction(name, said, said == "1") for name, said in zip(names, ["1", "1", "2", "2"], strict=True)
    ]
    found = by_subject(names, lambda some: task_score([rows[i] for i in some], [outcomes[i] for i in some], "letter"))
    assert {name: (score["accuracy"], score["n"]) for name, score in found["by_subject"].items()} == {
        "anatomy": (0.5, 2), "astronomy": (0.0, 1), "virology": (1.0, 1),
    }  # fmt: skip
    assert {name: (score["accuracy"], score["n"]) for name, score in found["by_category"].items()} == {
        "STEM": (0.0, 1), "other": (pytest.approx(2 / 3), 3),
    }  # fmt: skip
    assert list(found["by_category"]) == ["STEM", "other"]


def test_rows_of_choices_are_not_replies():
    with pytest.raises(AssertionError):
        _judge(Row("obqa", "1", "", "Q?", ("x", "y"), 0), "x")
