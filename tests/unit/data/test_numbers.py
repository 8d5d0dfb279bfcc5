"""The final number of a worked solution: where it stands in a text, and what it is worth."""

from fractions import Fraction

import pytest

from mosld.data.parsing import final_number, value

# a model's answer -> the value of its final number; None: it gives none
ANSWERS: dict[str, float | Fraction | None] = {
    # after the mark
    "48/2 = 24\n48 + 24 = 72\n#### 72": 72,
    "#### 72.0": 72,
    "#### 72.": 72,
    "#### 72\n": 72,
    "####72": 72,
    "#### $1,200": 1200,
    "#### -3": -3,
    "#### -$3": -3,
    "#### $-3": -3,
    "#### \u22123": -3,
    "#### 1,234.50": 1234.5,
    "#### 72%": 72,
    "#### 72 clips": 72,
    "#### She has 72": 72,
    "#### 1,000,000": 1_000_000,
    "#### .5": 0.5,
    "#### 1/2": 0.5,
    "#### 2 1/2": 2.5,
    "#### -2 1/2": -2.5,
    "#### 007": 7,
    "#### 72\nNow 5 more.": 72,
    "9\n#### 72 of 80": 72,
    "#### \n5": 5,
    "#### none, so it is 7": 7,
    # without it: the last number
    "The answer is 72.": 72,
    "The answer is 72.0.": 72,
    "She pays $1,200.": 1200,
    "She pays $19.99, all told.": 19.99,
    "It is 72%.": 72,
    "It is -3.": -3,
    "It is (-3).": -3,
    "x=-3": -3,
    "10-3": 3,
    "10 - 3": 3,
    "(5)-3": 3,
    "a-3": 3,
    "10\u20133": 3,
    "1.5-3": 3,
    "First 5, then 7": 7,
    "1,2,3": 3,
    "1,2345": 2345,
    "It is **72**": 72,
    "\\boxed{72}": 72,
    "72 clips": 72,
    "He eats 1/2": 0.5,
    "It is 1/2.": 0.5,
    "in 1/2.5": 2.5,
    "He eats 2 1/2 pies": 2.5,
    "48/2": 24,
    "3/0": 0,
    "at 5.": 5,
    "\u0663": 3,  # a digit of another script
    "": None,
    "none": None,
    "#### ": None,
    "####": None,
    "-": None,
    "$": None,
    ".": None,
    "9" * 5000: None,
}


@pytest.mark.parametrize("text", ANSWERS)
def test_the_final_number_of_an_answer(text: str):
    found, wanted = final_number(text), ANSWERS[text]
    assert (None if found is None else value(found)) == (None if wanted is None else Fraction(str(wanted)))


@pytest.mark.parametrize(
    ("text", "written"), [("#### $1,200", "$1,200"), ("It is -3.50.", "-3.50"), ("#### 72%", "72")]
)
def test_a_number_is_given_as_it_stands_in_the_text(text: str, written: str):
    assert final_number(text) == written


@pytest.mark.parametrize("text", ["72", " 72 ", "72.00", "72 %", "$72", "144/2", "71 2/2"])
def test_a_text_that_is_one_number_has_its_value(text: str):
    assert value(text) == 72


@pytest.mark.parametrize("text", ["+72", "1,2", "3 4", "seventy", "7e1", "72 clips", "NaN", "1/0", "", "9" * 5000])
def test_a_text_that_is_not_one_number_has_none(text: str):
    assert value(text) is None
