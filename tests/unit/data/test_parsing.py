"""How an answer of the user's names a choice."""

import pytest

from mosld.data.columns import AmbiguousAnswersError, answer_form, choice_index, explain_answer

CHOICES = ["red", "Blue", "7", "green"]


@pytest.mark.parametrize(
    ("answer", "form", "index"),
    [
        (0, "index", 0), (3, "index", 3), ("3", "index", 3), (2.0, "index", 2), (4, "index", None), (-1, "index", None),
        (1, "number", 0), ("4", "number", 3), (0, "number", None), (5, "number", None), (1.5, "index", None),
        (True, "index", None), ("1e1", "index", None), ("²", "index", None), (float("inf"), "index", None),
        ("A", "letter", 0), ("d", "letter", 3), ("(B)", "letter", 1), ("C.", "letter", 2), ("E", "letter", None),
        ("AB", "letter", None), ("", "letter", None), (1, "letter", None),
        ("red", "text", 0), (" blue ", "text", 1), ("7", "text", 2), (7, "text", None), ("pink", "text", None),
    ],
)  # fmt: skip
def test_answer_names_a_choice_or_none(answer, form, index):
    assert choice_index(answer, CHOICES, form) == index


@pytest.mark.parametrize(
    ("answers", "form"),
    [
        ([0, 1, 2], "index"), ([1, 2, 4], "number"), (["1", "0"], "index"), (["A", "D"], "letter"),
        (["red", "green"], "text"), ([0, 3, 9], "index"), (["A", "b", "pink"], "letter"), ([None, 0, 1], "index"),
        ([], "text"),
    ],
)  # fmt: skip
def test_answer_form_is_the_one_that_matches_most_rows(answers, form):
    assert answer_form([(answer, CHOICES) for answer in answers]) == form


@pytest.mark.parametrize(
    ("rows", "forms"),
    [
        ([(1, CHOICES), (2, CHOICES), (3, CHOICES)], "index or number"),
        ([("1", CHOICES)], "index or number"),
        ([("1", ["3", "1", "2"]), ("2", ["2", "0", "5"])], "text or"),
    ],
)
def test_ambiguous_answers_are_refused(rows, forms):
    with pytest.raises(AmbiguousAnswersError, match=forms):
        answer_form(rows)


def test_two_forms_that_name_the_same_choices_are_not_ambiguous():
    assert answer_form([("B", ["A", "B", "C"]), ("C", ["A", "B", "C"])]) == "text"


@pytest.mark.parametrize(
    ("form", "words"), [("index", "0..3"), ("number", "1..4"), ("letter", "A..D"), ("text", "none of the choices")]
)
def test_explanation_says_what_an_answer_should_be(form, words):
    assert words in explain_answer(CHOICES, form)
