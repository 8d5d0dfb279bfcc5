"""Every kind of bad row that a user's own csv or parquet file can hold: all of them at once, as file:line: reason.

The tables serve the figure of row 6 of the promises, too (tests/reliability/test_bad_rows.py).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from mosld.common.errors import UserError
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import load_dataset

MAPS = {
    "law": {"id": "name", "question": "q", "choices": "options", "answer": "label"},
    "art": {"question": "q", "choices": ["a", "b", "c"], "answer": "label"},
    "sums": {"question": "q", "answer": "steps", "final": "result"},
    "talk": {"question": "q", "response": "reply"},
    "listed": {"question": "q", "choices": "options", "answer": "label"},
    "numbered": {"question": "q", "choices": "options", "answer": "label"},
}
CHOICES = b'"[""x"",""y"",""z""]"'
Kinds = dict[str, tuple[Any, str]]  # by kind: the row, words of the reason; None where the row is good

CSV: dict[str, tuple[bytes, Kinds]] = {  # by task: the header, its rows
    "law": (
        b"name,q,options,label",
        {
            "good": (b"first,Q1?," + CHOICES + b",A", ""),
            "good, another letter": (b"second,Q2?," + CHOICES + b",B", ""),
            "good, no name": (b",Q3?," + CHOICES + b",C", ""),
            "too few fields": (b"a,Q?", "has 2 fields, the header has 4"),
            "too many fields": (b"b,Q?," + CHOICES + b",A,B", "has 5 fields, the header has 4"),
            "bad JSON": (b'c,Q?,"[""x"",",A', "'options' is no list"),
            "no JSON": (b"d,Q?,x y,A", "'options' is no list"),
            "choices of a wrong type": (b"e,Q?,3,A", "'options' must be a list, is a number"),
            "no choices": (b"f,Q?,,A", "'options' is no list"),
            "one choice": (b'g,Q?,"[""x""]",A', "'options' has 1 entries, needs at least 2"),
            "empty choice": (b'h,Q?,"[""x"","" ""]",A', "choice 1 is empty"),
            "choice of a wrong type": (b'i,Q?,"[""x"",[1]]",A', "choice 1 must be text, is a list"),
            "empty question": (b'j," ",' + CHOICES + b",A", "'q' is empty"),
            "answer hidden": (b"k,Q?," + CHOICES + b",", "'label' is hidden"),
            "answer out of range": (b"l,Q?," + CHOICES + b",D", "'label' must be a letter, A..C, is 'D'"),
            "answer in another form": (b"m,Q?," + CHOICES + b",y!", "'label' must be a letter, A..C, is 'y!'"),
            "id that comes twice": (b"first,Q?," + CHOICES + b",A", "id 'first' stands already in line 2"),
            "not UTF-8": (b"n,Q\xff?," + CHOICES + b",A", "is not UTF-8"),
            "a quote within a field": (b'o,"Q"?,' + CHOICES + b",A", "is no row of a csv file"),
            "good, after a quote": (b"p,Q4?," + CHOICES + b",A", ""),
            "a quote that is not closed": (b'q,"Q?,' + CHOICES.replace(b'"', b"") + b",A", "is no row of a csv file"),
        },
    ),
    "art": (
        b"q,a,b,c,label",
        {
            "good": (b"Q1?,x,y,z,A", ""),
            "good, fewer choices": (b"Q2?,x,y,,B", ""),
            "good, the last": (b"Q3?,x,y,z,C", ""),
            "one choice of its columns": (b"Q?,x,,,A", "has 1 entries, needs at least 2"),
            "a gap in its columns": (b"Q?,x,,z,A", "choice 1 is empty"),
            "answer for an empty column": (b"Q?,x,y,,C", "'label' must be a letter, A..B, is 'C'"),
        },
    ),
    "sums": (
        b"q,steps,result",
        {
            "good": (b"1+1?,1+1 is 2.,2", ""),
            "result that is no number": (b"1+2?,1+2 is 3.,three", "'result' is no number: 'three'"),
            "results that differ": (b"1+3?,#### 4,5", "but 'steps' ends in #### 4"),
            "no steps": (b"1+4?,,5", "'steps' is empty"),
            "no result": (b"1+5?,1+5 is 6.,", "'result' is empty"),
        },
    ),
    "talk": (
        b"q,reply",
        {
            "good": (b"Hello?,Hello.", ""),
            "no reply": (b"Hello?,", "'reply' is empty"),
            "nothing asked": (b",Hello.", "'q' is empty"),
        },
    ),
}  # fmt: skip
THREE = ["x", "y", "z"]
PARQUET: dict[str, Kinds] = {  # by task: its rows
    "law": {
        "good": ({"name": "first", "q": "Q1?", "options": THREE, "label": "A"}, ""),
        "good, another letter": ({"name": "second", "q": "Q2?", "options": THREE, "label": "B"}, ""),
        "good, no name": ({"name": None, "q": "Q3?", "options": THREE, "label": "C"}, ""),
        "question null": ({"name": "a", "q": None, "options": THREE, "label": "A"}, "'q' is empty"),
        "empty question": ({"name": "b", "q": " ", "options": THREE, "label": "A"}, "'q' is empty"),
        "choices null": ({"name": "c", "q": "Q?", "options": None, "label": "A"}, "'options' must be a list, is null"),
        "no choice": ({"name": "d", "q": "Q?", "options": [], "label": "A"}, "has 0 entries, needs at least 2"),
        "one choice": ({"name": "e", "q": "Q?", "options": ["x"], "label": "A"}, "has 1 entries, needs at least 2"),
        "empty choice": ({"name": "f", "q": "Q?", "options": ["x", ""], "label": "A"}, "choice 1 is empty"),
        "choice null": ({"name": "g", "q": "Q?", "options": ["x", None], "label": "A"}, "choice 1 is empty"),
        "answer hidden": ({"name": "h", "q": "Q?", "options": THREE, "label": None}, "'label' is hidden"),
        "answer empty": ({"name": "i", "q": "Q?", "options": THREE, "label": ""}, "'label' is hidden"),
        "answer out of range": ({"name": "j", "q": "Q?", "options": THREE, "label": "D"}, "must be a letter, A..C"),
        "id that comes twice": ({"name": "first", "q": "Q?", "options": THREE, "label": "A"}, "already in line 1"),
        "not UTF-8": ({"name": "k", "q": b"Q\xff?", "options": THREE, "label": "A"}, "is not UTF-8"),
    },
    "listed": {  # a column has one type: what is wrong with it is wrong with every row
        "question of a wrong type": ({"q": ["Q?"], "options": THREE, "label": "A"}, "'q' must be text, is a list"),
    },
    "numbered": {
        "good": ({"q": "Q1?", "options": THREE, "label": 0.0}, ""),
        "good, another number": ({"q": "Q2?", "options": THREE, "label": 1.0}, ""),
        "answer a fraction": ({"q": "Q?", "options": THREE, "label": 0.5}, "'label' must be an index, 0..2, is 0.5"),
        "answer negative": ({"q": "Q?", "options": THREE, "label": -1.0}, "'label' must be an index, 0..2, is -1.0"),
        "answer too large": ({"q": "Q?", "options": THREE, "label": 7.0}, "'label' must be an index, 0..2, is 7.0"),
        "answer not a number": ({"q": "Q?", "options": THREE, "label": float("nan")}, "'label' is hidden"),
    },
}


def write_csv(root: Path) -> dict[str, list[tuple[str, str]]]:
    """All tasks as csv files; returns by task, for each bad row, ``file:line: `` and the words of its reason."""
    wanted = {}
    for task, (header, kinds) in CSV.items():
        path = root / f"{task}.csv"
        path.write_bytes(b"\n".join([header, *(row for row, _ in kinds.values())]) + b"\n")
        wanted[task] = _wanted(path, kinds, first=2)
    return wanted


def write_parquet(root: Path) -> dict[str, list[tuple[str, str]]]:
    """The same as parquet files."""
    wanted = {}
    for task, kinds in PARQUET.items():
        path, records = root / f"{task}.parquet", [row for row, _ in kinds.values()]
        columns = {name: _column([record[name] for record in records]) for name in records[0]}
        parquet.write_table(pyarrow.table(columns), path)
        wanted[task] = _wanted(path, kinds, first=1)
    return wanted


def _column(values: list[Any]) -> Any:
    """Values as a column; bytes that are no text stand in a column of text, as other writers leave them there."""
    if not any(isinstance(value, bytes) for value in values):
        return values
    raw = [value.encode() if isinstance(value, str) else value for value in values]
    return pyarrow.array(raw, pyarrow.binary()).cast(pyarrow.string(), safe=False)


def _wanted(path: Path, kinds: Kinds, first: int) -> list[tuple[str, str]]:
    return [(f"{path}:{line}: ", reason) for line, (_, reason) in enumerate(kinds.values(), start=first) if reason]


FORMS: dict[str, Callable[[Path], dict[str, list[tuple[str, str]]]]] = {"csv": write_csv, "parquet": write_parquet}


def refusal(root: Path, form: str) -> tuple[list[str], list[tuple[str, str]]]:
    """What reading all files of a form says, and what it should: a reason for each bad row, and no more."""
    wanted = FORMS[form](root)
    data = DataConfig(name="local", kind="own", columns={task: MAPS[task] for task in wanted})
    try:
        load_dataset(data, SourceConfig(name="local", root=str(root)))
    except UserError as error:
        return error.messages, [one for found in wanted.values() for one in found]
    return [], [one for found in wanted.values() for one in found]


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_is_named_with_file_and_line_all_at_once(form, tmp_path):
    said, wanted = refusal(tmp_path, form)
    for place, reason in wanted:
        [found] = [message for message in said if message.startswith(place)] or [f"nothing about {place}"]
        assert reason in found
    assert len(said) == len(wanted) + 1  # and no good row
    assert said[-1].startswith(f"{len(wanted)} bad rows: mend them, or leave them out with source.on_bad_row=skip")


def test_equal_choices_are_counted_and_no_fault(tmp_path):
    rows = [b'Q%d?,"[""x"",""x"",""y""]",%s' % (i, b"ABC"[i % 3 : i % 3 + 1]) for i in range(30)]
    (tmp_path / "law.csv").write_bytes(b"\n".join([b"q,options,label", *rows]))
    data = DataConfig(name="local", kind="own", columns={key: MAPS["law"][key] for key in MAPS["law"] if key != "id"})
    assert load_dataset(data, SourceConfig(name="local", root=str(tmp_path))).notes == [
        "law: 30 rows have two equal choices"
    ]
