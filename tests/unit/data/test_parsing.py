"""Numbers in worked solutions, and how an answer of the user's names a choice."""

from fractions import Fraction

import pytest

from mosld.data.columns import AmbiguousAnswersError, answer_form, choice_index, explain_answer
from mosld.data.numbers import final_number, value

# By value, the answers of a model whose final number has it.
MARKED = {
    72: [
        "48/2 = 24\n48 + 24 = 72\n#### 72", "#### 72.0", "#### 72.", "#### 72\n", "####72", "#### 72%", "#### 72 clips",
        "#### She has 72", "#### 72\nNow 5 more.", "9\n#### 72 of 80",
    ],
    -3: ["#### -3", "#### -$3", "#### $-3", "#### \u22123"],
    1200: ["#### $1,200"],
    1234.5: ["#### 1,234.50"],
    1_000_000: ["#### 1,000,000"],
    0.5: ["#### .5", "#### 1/2"],
    2.5: ["#### 2 1/2"],
    -2.5: ["#### -2 1/2"],
    7: ["#### 007", "#### none, so it is 7"],
    5: ["#### \n5"],
}  # fmt: skip
UNMARKED = {  # the last number
    72: ["The answer is 72.", "The answer is 72.0.", "It is 72%.", "It is **72**", "\\boxed{72}", "72 clips"],
    1200: ["She pays $1,200."],
    19.99: ["She pays $19.99, all told."],
    -3: ["It is -3.", "It is (-3).", "x=-3"],
    # The last one is a digit of another script.
    3: ["10-3", "10 - 3", "(5)-3", "a-3", "10\u20133", "1.5-3", "1,2,3", "\u0663"],
    7: ["First 5, then 7"],
    2345: ["1,2345"],
    0.5: ["He eats 1/2", "It is 1/2."],
    2.5: ["in 1/2.5", "He eats 2 1/2 pies"],
    24: ["48/2"],
    0: ["3/0"],
    5: ["at 5."],
}
ANSWERS: list[tuple[float, str]] = [
    (number, text) for table in (MARKED, UNMARKED) for number, texts in table.items() for text in texts
]


@pytest.mark.parametrize(("number", "text"), ANSWERS)
def test_final_number_of_an_answer(number, text):
    written = final_number(text)
    assert written is not None
    assert value(written) == Fraction(str(number))


@pytest.mark.parametrize("text", ["", "none", "#### ", "####", "-", "$", ".", "9" * 5000])
def test_answer_without_a_number_has_no_value(text):
    written = final_number(text)
    assert written is None or value(written) is None


@pytest.mark.parametrize(
    ("text", "written"), [("#### $1,200", "$1,200"), ("It is -3.50.", "-3.50"), ("#### 72%", "72")]
)
def test_final_number_is_returned_as_written(text, written):
    assert final_number(text) == written


@pytest.mark.parametrize("text", ["72", " 72 ", "72.00", "72 %", "$72", "144/2", "71 2/2"])
def test_text_that_is_one_number_has_its_value(text):
    assert value(text) == 72


@pytest.mark.parametrize("text", ["+72", "1,2", "3 4", "seventy", "7e1", "72 clips", "NaN", "1/0", "", "9" * 5000])
def test_text_that_is_not_one_number_has_no_value(text):
    assert value(text) is None


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
