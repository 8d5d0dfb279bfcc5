"""The forms of choices, and how an answer names one of them."""

from decimal import Decimal

import numpy
import pytest

from mosld.data.reading.bad_rows import RowError
from mosld.data.reading.choices import ANSWER_FORMS, AmbiguousAnswersError, answer_form, choice_index, read_choices

CHOICES = ["red", "Blue", "7", "green"]


@pytest.mark.parametrize(
    ("answer", "form", "index"),
    [
        (0, "index", 0), (3, "index", 3), ("3", "index", 3), (2.0, "index", 2), (4, "index", -1), (-1, "index", -1),
        (1, "number", 0), ("4", "number", 3), (0, "number", -1), (5, "number", -1), (1.5, "index", -1),
        (True, "index", 1), ("2.0", "index", 2), (Decimal(3), "index", 3), ("1e1", "index", -1),
        ("²", "index", -1), (float("inf"), "index", -1),
        ("A", "letter", 0), ("d", "letter", 3), ("(B)", "letter", 1), ("C.", "letter", 2), ("E", "letter", -1),
        ("AB", "letter", -1), ("", "letter", -1), (1, "letter", -1),
        ("Option B", "letter", 1), ("choice_4", "number", 3), ("option", "letter", -1),
        ("B. Blue", "letter", 1), ("(d) green", "letter", 3), ("B. red", "letter", -1), ("E. red", "letter", -1),
        ("red", "text", 0), (" blue ", "text", 1), ("7", "text", 2), (7, "text", 2), ("7.0", "text", 2),
        ("pink", "text", -1),
    ],
)  # fmt: skip
def test_answer_names_a_choice_or_none(answer, form, index):
    assert choice_index(answer, CHOICES, [], form) == index


@pytest.mark.parametrize(
    ("answer", "choices", "index"),
    [
        ("New York", ["Rome", "new  york"], 1), ("café", ["tea", "cafe\u0301"], 1),
        ("STRASSE", ["Weg", "Straße"], 1),
        (True, ["no", "yes"], 1), (False, ["True", "False"], 1), (True, ["x", "y"], -1), (3, ["5", "3.0"], 1),
    ],
)  # fmt: skip
def test_answer_is_looked_up_by_its_value(answer, choices, index):
    assert choice_index(answer, choices, [], "text") == index


TWO = ["red", "blue"]


@pytest.mark.parametrize(
    ("value", "texts", "labels"),
    [
        (TWO, TWO, []),
        ([*TWO, "", None], TWO, []),
        ([2, Decimal("3.5"), b"x"], ["2", "3.5", "x"], []),
        ({"text": TWO, "label": ["1", "2"]}, TWO, ["1", "2"]),
        ({"A": "red", "B": "blue", "C": None}, TWO, ["A", "B"]),
        ([{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}], TWO, ["A", "B"]),
        ([{"text": "red"}, {"text": "blue"}], TWO, []),
        ([{"name": "B", "text": "red"}, {"name": "A", "text": "blue"}], TWO, ["B", "A"]),
        ([{"index": 1, "option": "red"}, {"index": 0, "option": "blue"}], TWO, ["1", "0"]),
        (["B. red", "(A) blue"], ["B. red", "(A) blue"], ["B", "A"]),
        (["A. red", "blue"], ["A. red", "blue"], []),
        ('["red", "blue"]', TWO, []),
        ("['red', 'blue']", TWO, []),
        ("('red', 'blue')", TWO, []),
        ("{'A': 'red', 'B': 'blue'}", TWO, ["A", "B"]),
        ('["it\'s", "a \\"b\\""]', ["it's", 'a "b"'], []),
        (["red", "", "blue"], ["red", "", "blue"], []),
        (3, 3, []),
    ],
    ids=str,
)
def test_choices_are_read_in_every_form(value, texts, labels):
    assert read_choices(value) == (texts, labels)


@pytest.mark.parametrize("cell", ["red; blue", "['red' 'blue']", "[red, blue]", "", "[" * 10_000, "__import__('os')"])
def test_cell_that_is_no_list_is_refused(cell):
    with pytest.raises(RowError, match="'choices' is not a list") as caught:
        read_choices(cell)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def form_of(rows) -> str:
    """The form of answers that stand beside choices, or labelled choices."""
    labelled = [
        (answer, list(choices.values()), list(choices)) if isinstance(choices, dict) else (answer, list(choices), [])
        for answer, choices in rows
    ]
    return answer_form(
        {form: numpy.array([choice_index(*row, form) for row in labelled]) for form in ANSWER_FORMS},
    )


@pytest.mark.parametrize(
    ("rows", "form"),
    [
        *(
            ([(answer, CHOICES) for answer in answers], form)
            for form, answers in [
                ("index", [0, 1, 2]), ("index", ["1", "0"]), ("index", [0, 3, 9]), ("number", [1, 2, 4]),
                ("letter", ["A", "D"]), ("letter", ["A", "b", "pink"]), ("text", ["red", "green"]),
            ]
        ),
        # A text or a label fits all of them, an index or a number only some.
        ([(3, ["2", "3", "4"]), (9, ["1", "9", "3"])], "text"),
        ([("2", {"1": "x", "2": "y", "3": "z"}), ("1", {"1": "x", "2": "y"})], "label"),
        ([("1.0", ["x", "y"]), ("0.0", ["x", "y"])], "index"),
        # Texts and letters that name the same choices are not ambiguous.
        ([("B", ["A", "B", "C"]), ("C", ["A", "B", "C"])], "text"),
    ],
)  # fmt: skip
def test_answer_form_is_the_one_that_matches_most_rows(rows, form):
    assert form_of(rows) == form


@pytest.mark.parametrize(
    ("rows", "forms"),
    [
        ([(1, CHOICES), (2, CHOICES), (3, CHOICES)], "index or number"),
        ([("1", CHOICES)], "index or number"),
        ([("1", ["3", "1", "2"]), ("2", ["2", "0", "5"])], "text or"),
        ([(3, ["2", "3", "4"]), (2, ["1", "2", "3"])], "text or number"),
        ([("B", {"A": "B", "B": "A"})], "label or text"),
        # Nine of twelve are texts; all but one are numbers, too.
        ([(1, ["3", "1"])] * 9 + [(2, ["5", "6"])] * 2 + [(0, ["5", "6"])], "number or text"),
    ],
)
def test_ambiguous_answers_are_refused(rows, forms):
    with pytest.raises(AmbiguousAnswersError, match=forms):
        form_of(rows)
