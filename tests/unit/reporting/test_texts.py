"""A table as Markdown, LaTeX and CSV."""

import csv
import io

from mosld.reporting.table import NOTHING, Cell, Table, as_csv, latex, markdown

TABLE = Table(
    "50 % of a_b",
    ["method", "obqa", "95 % interval"],
    [
        [Cell("lora|x"), Cell("61.2 ± 0.8*", 61.23, 0.81, 3, best=True), Cell("+0.1 to +2.0", 0.1)],
        [Cell("a_b"), NOTHING, NOTHING],
    ],
    ["A note with 5 % & more."],
)


def test_markdown():
    assert markdown(TABLE).splitlines()[2:8] == [
        "| method | obqa | 95 % interval |",
        "| --- | ---: | ---: |",
        r"| lora\|x | **61.2 ± 0.8\*** | +0.1 to +2.0 |",
        "| a_b | - | - |",
        "",
        "A note with 5 % & more.  ",
    ]


def test_latex_is_booktabs_and_escaped():
    text = latex(TABLE)
    assert [rule for rule in (r"\toprule", r"\midrule", r"\bottomrule") if text.count(rule) == 1] == [
        r"\toprule", r"\midrule", r"\bottomrule",
    ]  # fmt: skip
    assert r"lora|x & \textbf{61.2 $\pm$ 0.8*} & +0.1 to +2.0 \\" in text
    assert r"a\_b & - & - \\" in text
    assert r"\caption{50 \% of a\_b. A note with 5 \% \& more.}" in text


def test_csv_has_the_whole_numbers_and_nothing_where_one_is_missing():
    assert list(csv.reader(io.StringIO(as_csv(TABLE)))) == [
        ["method", "obqa", "obqa std", "obqa seeds", "95 % interval"],
        ["lora|x", "61.23", "0.81", "3", "+0.1 to +2.0"],
        ["a_b", "", "", "", ""],
    ]
