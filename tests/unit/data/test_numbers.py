"""The number that a worked solution ends in, and the line that gives it."""

import re
from fractions import Fraction
from pathlib import Path

import pytest

from mosld.data.bundled import generate
from mosld.data.numbers import final_line, final_number, value
from mosld.data.reading.bad_rows import BadRows
from mosld.data.reading.parsing import parse_row
from mosld.data.reading.sources import read_rows
from mosld.data.rows import Solution
from mosld.data.tasks import TASKS
from mosld.data.tokens.prompts import solution_text

REAL = Path(__file__).parents[4] / "shared" / "data" / "gsm8k"
# By value, the answers of a model whose final number has it.
MARKED = {
    72: [
        "48/2 = 24\n48 + 24 = 72\n#### 72", "#### 72.0", "#### 72.", "#### 72\n", "####72", "#### 72%", "#### 72 clips",
        "#### She has 72", "#### 72\nNow 5 more.", "9\n#### 72 of 80", "**#### 72**", "#### **72**", "#### $72$",
        "#### 72 clips\nNow 5 more.", "#### 72 km\r\n", r"#### \(72\)", r"#### \boxed{72}", "#### 72 °C", "#### 72km/h",
        "#### 80\nThat is 8 too many.\n#### 72", "#### 72\n#### Check: 70 + 2", r"\boxed{5}" "\n#### 72",
    ],
    -3: ["#### -3", "#### -$3", "#### $-3", "#### \u22123"],
    1200: ["#### $1,200", "#### 1\u202f200", "#### 1 200", "#### $1{,}200", "#### 1,200 of 1,300"],
    1234.5: ["#### 1,234.50", "#### 1.234,50"],
    1_000_000: ["#### 1,000,000", "#### 1.000.000", "#### 10,00,000", "#### 1'000'000", "#### 10^6"],
    0.5: ["#### .5", "#### 1/2", r"#### \frac{1}{2}", r"#### \frac12", "#### ½", "#### 0,5"],
    2.5: ["#### 2 1/2", r"#### 2\frac{1}{2}", "#### 2½"],
    -2.5: ["#### -2 1/2"],
    7: [
        "#### 007", "#### none, so it is 7",
        "#### Step 1: half of 8\nHalf is 4.\n#### Step 2: add 3\n4 + 3 = 7.\n#### 7",
        "#### 1. Halve\nHalf of 14 is 7", "#### 3 Steps to solve it\nSo it is 7", "#### 3:30\nSo 7",
    ],
    5: ["#### \n5"],
}  # fmt: skip
BOXED = {  # the last box, whatever follows
    12: [
        r"So it is \boxed{12}.",
        r"\boxed{12} (checked in 3 ways)",
        r"\boxed{12}. Step 5 confirms it.",
        r"\fbox{12}",
        r"\boxed{3}, so \boxed{12}",
        r"\boxed{x = 12}",
        r"\boxed{12\text{ apples}}",
        r"\boxed{\text{12 apples}}",
        r"\boxed{12 km}",
        r"\boxed{\textbf{12}}",
        r"\[ \boxed{12} \]",
        r"\boxed{12\%}",
        r"\boxed{\$12}",
        r"\boxed{$12$}",
        r"\boxed{12^\circ}",
        r"\boxed{5 + 7 = 12}",
        r"\boxed{12 \text{ cm}^2}",
        r"\boxed{\left(12\right)}",
        r"\boxed{}12",
    ],
    9500: [
        r"\boxed{$9{,}500}",
        r"\boxed{9{,}500}",
        r"\boxed{9,500}",
        r"\boxed{9\,500}",
        r"\boxed{9.5 \times 10^3}",
        r"\boxed{9\,500\text{ m}}",
        r"\boxed{9.500,00\text{ €}}",
        r"\boxed{\frac{19{,}000}{2}}",
    ],
    0.75: [r"\boxed{\frac{3}{4}}", r"\boxed{\dfrac{3}{4}}", r"\boxed{3/4}", r"\boxed{0.75}", r"\boxed{\tfrac34}"],
    -0.75: [r"\boxed{-\frac{3}{4}}", r"\boxed{\frac{-3}{4}}", r"\boxed{-0.75}"],
    4: [r"\boxed{\sqrt{16}}", r"\boxed{2^2}", r"\boxed{\frac{\sqrt{64}}{2}}"],
}
UNMARKED = {  # the last number
    72: ["The answer is 72.", "The answer is 72.0.", "It is 72%.", "It is **72**", "72 clips", "x = 72", "72 m^2",
         "72 kg of H2O", "He has 72 at 3:30.", "72, on 2024-01-31", "72 in version 1.2.3", "So $72$.", "US$72",
         "70 or 72"],
    1200: ["She pays $1,200.", "1 200 m", "1\u00a0200 m", "1.2e3", "1.2 x 10^3", r"$1.2 \times 10^{3}$",
           "1.2 \u00d7 10³", "1.2*10^3 m", "₹1,200", "12·10^2"],
    70_000: ["So it is 70 000.", "So it is 70\u202f000 m.", "70\u2009000", r"70\,000 km", "70,000.00"],
    100_000: ["So it is 1,00,000.", "1e5", "10^5", "10^{5}"],
    19.99: ["She pays $19.99, all told.", "19,99 €", "It costs 19.99."],
    -3: ["It is -3.", "It is (-3).", "x=-3", "\u22123 °C", "$-3$"],
    # The last one is a digit of another script.
    3: ["10-3", "10 - 3", "(5)-3", "a-3", "10\u20133", "1.5-3", "1,2,3", "\u0663", "\uff13"],
    7: ["First 5, then 7", "If the answer is 5 + 2 = 7", "The answer is 6 or 7.", "Answer: 3:30 or 7",
        "The answer is 5 more: 7", "If the answer is 5, then so be it. It is 7."],
    12: ["The answer is 12. Step 5 confirms it.", "Answer: **12** (checked in 3 ways)",
         "The final answer is: $12.\n5 are left.",
         "The answer is 11.\nNo, the answer is 12 apples! 5 are red."],
    2345: ["1,2345"],
    0.5: ["He eats 1/2", "It is 1/2.", r"It is $\frac{1}{2}$", r"It is \frac{1}{2}.", "½ a pie", "5 \u00d7 10⁻¹"],
    -0.5: [r"$-\frac12$", "-1/2", "It is -½."],
    2.5: ["in 1/2.5", "He eats 2 1/2 pies", "He eats 2½ pies", r"$2\frac{1}{2}$ pies"],
    24: ["48/2"],
    0: ["3/0"],
    5: ["at 5."],
}  # fmt: skip
ANSWERS: list[tuple[float, str]] = [
    (number, text) for table in (MARKED, BOXED, UNMARKED) for number, texts in table.items() for text in texts
]


@pytest.mark.parametrize(("number", "text"), ANSWERS)
def test_final_number_of_an_answer(number, text):
    written = final_number(text)
    assert written is not None
    assert value(written) == Fraction(str(number))


@pytest.mark.parametrize(
    "text",
    [
        "", "none", "#### ", "####", "-", "$", ".", "9" * 5000, "3:30", "2024-01-31", "1/2/2024", "1.2.3", "H2O", "m^2",
        "The ratio is 3:4.", r"\boxed{A} and 5", r"\boxed{12, 13}", r"\boxed{12 \text{ or } 13}", r"\boxed{12\pi}",
        r"\boxed{3:30}", r"\boxed{\sqrt{2}}", r"\boxed{\frac{1}{0}}", r"\frac{3}{x}", r"\boxed{2^{9999999}}",
        r"\boxed{9^{9^{9^9}}}", r"\boxed{\sum_{n=1}^{9} n}",
    ],
)  # fmt: skip
def test_answer_without_a_number_has_no_value(text):
    written = final_number(text)
    assert written is None or value(written) is None


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("#### $1,200", "$1,200"),
        ("It is -3.50.", "-3.50"),
        ("#### 72%", "72%"),
        ("It is \u22123", "-3"),
        ("3:30", None),
    ],
)
def test_final_number_is_returned_in_plain_spelling(text, written):
    assert final_number(text) == written


@pytest.mark.parametrize("text", ["72", " 72 ", "72.00", "72 %", "$72", "144/2", "71 2/2", "7.2e1", r"\frac{144}{2}"])
def test_text_that_is_one_number_has_its_value(text):
    assert value(text) == 72


@pytest.mark.parametrize(
    "text", ["+72", "3 4", "seventy", "72 clips", "NaN", "1/0", "", "9" * 5000, "1-2", "3:30", r"\frac{7}{x}"]
)
def test_text_that_is_not_one_number_has_no_value(text):
    assert value(text) is None


@pytest.mark.parametrize(
    ("answer", "final", "learned"),
    [
        ("#### Step 1: halve 8\nIt is 4.\n#### 4", "4", "#### Step 1: halve 8\nIt is 4.\n#### 4"),
        ("#### Step 1: halve 8\nIt is 4.", "4", "#### Step 1: halve 8\nIt is 4.\n#### 4"),
        ("Guess:\n#### 80\nToo few.\n#### 81", "81", "Guess:\n80\nToo few.\n#### 81"),
        ("So\n#### 4 apples", "4", "So\n#### 4"),
        ("#### 2 steps follow\nIt is 4.", "4", "#### 2 steps follow\nIt is 4.\n#### 4"),
        (r"It is \boxed{5}. 2 ways.", "5", "It is \\boxed{5}. 2 ways.\n#### 5"),
        ("So\n#### \\frac{3}{4}", "3/4", "So\n#### 3/4"),
        ("", "1 200", "#### 1 200"),
    ],
)
def test_what_is_learned_ends_in_the_final_line_and_is_judged_by_it(answer, final, learned):
    row = parse_row(TASKS["gsm8k"], {"id": "1", "question": "?", "answer": answer or "#### 1200", "final": final})
    assert isinstance(row, Solution)
    assert solution_text(row) == learned
    assert value(final_number(learned) or "") == value(final)
    line = final_line(learned)
    assert line is not None
    assert line.end() == len(learned)


def test_bundled_solutions_are_judged_right_by_what_is_learned():
    for record in (record for records in generate("gsm8k").values() for record in records):
        row = parse_row(TASKS["gsm8k"], record)
        assert isinstance(row, Solution)
        assert value(final_number(solution_text(row)) or "") == Fraction(row.final)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is missing: the published rows are not part of the project")
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.slow
def test_every_published_solution_ends_in_its_number(split):
    bad = BadRows()
    rows = read_rows([REAL / f"{split}.jsonl"], TASKS["gsm8k"], split, bad)
    assert (len(rows), bad.count) == ({"train": 7473, "test": 1319}[split], 0)
    texts = [(row, solution_text(row)) for row in rows if isinstance(row, Solution)]
    wrong = [row.id for row, text in texts if not re.search(rf"[^#\n]\n#### {row.final}\Z", text) or "<<" in text]
    assert wrong == []
