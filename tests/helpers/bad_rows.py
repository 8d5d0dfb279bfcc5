"""Every kind of bad row, with words of the message that names it, and good rows in unusual forms."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from mosld.common.errors import UserError
from mosld.common.terminal import counted
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import load_dataset

GOOD: dict[str, dict[str, Any]] = {  # by task, a good row of a benchmark
    "obqa": {"id": "a", "context": "", "question": "What?", "choices": ["x", "y"], "answer": 0},
    "gsm8k": {"id": "a", "question": "How many?", "answer": "24+48 = <<24+48=72>>72\n#### 72", "final": "72"},
    "openorca": {"id": "a", "system": "", "question": "Say hi.", "response": "Hi."},
}


def line(task: str = "obqa", **changes: Any) -> bytes:
    """A good row with some keys changed; a key set to ... is left out."""
    row = {key: value for key, value in {**GOOD[task], **changes}.items() if value is not ...}
    return json.dumps(row, ensure_ascii=False).encode()


BAD: dict[str, dict[str, tuple[bytes, str]]] = {  # by task and kind: a line of a benchmark's file, words of the reason
    "obqa": {
        "bad JSON": (b'{"id": "a",', "is not JSON"),
        "a list": (b"[1]", "must be an object, is a list"),
        "a number": (b"3", "must be an object, is a number"),
        "null": (b"null", "must be an object, is null"),
        "not UTF-8": (b'{"id": "\xff"}', "is not UTF-8"),
        "a key twice": (b'{"id": "a", "question": "One?", "question": "Two?"}', "the key 'question' more than once"),
        "a key twice in a value": (b'{"id": "a", "meta": {"a": 1, "b": 2, "a": 1}}', "the key 'a' more than once"),
        "nested too deep": (b'{"id": ' + b"[" * 100_000, "is not JSON"),
        "no id": (line(id=...), "has no 'id'"),
        "no question": (line(question=...), "has no 'question'"),
        "no choices": (line(choices=...), "has no 'choices'"),
        "no answer": (line(answer=...), "has no 'answer'"),
        "empty id": (line(id=""), "'id' is empty"),
        "empty question": (line(question=" \n"), "'question' is empty"),
        "id of a wrong type": (line(id=3), "'id' must be text, is a number"),
        "question of a wrong type": (line(question=["What?"]), "'question' must be text, is a list"),
        "context of a wrong type": (line(context=3), "'context' must be text, is a number"),
        "context null": (line(context=None), "'context' must be text, is null"),
        "half a surrogate pair": (b'{"id":"a","question":"\\ud800","choices":["x","y"],"answer":0}', "question"),
        "choices of a wrong type": (line(choices={"text": ["x", "y"]}), "'choices' must be a list, is an object"),
        "one choice": (line(choices=["x"]), "needs at least 2"),
        "no choice": (line(choices=[]), "needs at least 2"),
        "27 choices": (line(choices=[f"choice {i}" for i in range(27)]), "there are letters for 26"),
        "choice of a wrong type": (line(choices=["x", 3]), "choice 1 must be text, is a number"),
        "empty choice": (line(choices=["x", " "]), "choice 1 is empty"),
        "answer hidden": (line(answer=None), "'answer' is hidden"),
        "answer too large": (line(answer=2), "'answer' is 2, must lie in 0..1"),
        "answer negative": (line(answer=-1), "'answer' is -1, must lie in 0..1"),
        "answer a letter": (line(answer="A"), "'answer' must be a whole number from 0, is text"),
        "answer a fraction": (line(answer=0.5), "'answer' must be a whole number from 0, is 0.5"),
        "answer a truth value": (line(answer=True), "'answer' must be a whole number from 0, is a truth value"),
        "answer of 5000 digits": (
            b'{"id":"a","question":"q","choices":["x","y"],"answer":' + b"1" * 5000 + b"}",
            "is not JSON",
        ),
        "repeated id": (line(id="first"), "id 'first' is already used in line 1"),
    },
    "gsm8k": {
        "no id": (line("gsm8k", id=...), "has no 'id'"),
        "no question": (line("gsm8k", question=...), "has no 'question'"),
        "no answer": (line("gsm8k", answer=...), "has no 'answer'"),
        "no final": (line("gsm8k", final=..., answer="Many."), "'final' is not a number"),
        "empty answer": (line("gsm8k", answer="\n"), "'answer' is empty"),
        "empty final": (line("gsm8k", final=""), "'final' is empty"),
        "answer hidden": (line("gsm8k", answer=None), "'answer' must be text, is null"),
        "final of a wrong type": (line("gsm8k", final=72), "'final' must be text, is a number"),
        "context of a wrong type": (line("gsm8k", context=3), "'context' must be text, is a number"),
        "half a surrogate pair": (
            line("gsm8k").replace(b"24+48 =", b"\\ud800"),
            "'answer' holds half a surrogate pair",
        ),
        "final not a number": (line("gsm8k", final="seventy"), "'final' is not a number: 'seventy'"),
        "final two numbers": (line("gsm8k", final="72 73"), "'final' is not a number: '72 73'"),
        "another number": (line("gsm8k", final="73"), "'final' is 73, but 'answer' ends in #### 72"),
        "text after the number": (line("gsm8k", answer="#### 72\nTrue."), "'answer' has text after its line '#### 72'"),
    },
    "openorca": {
        "no response": (line("openorca", response=...), "has no 'response'"),
        "empty response": (line("openorca", response=" "), "'response' is empty"),
        "system of a wrong type": (line("openorca", system=["Be brief."]), "'system' must be text, is a list"),
    },
}
CHOICES = b'"[""x"",""y"",""z""]"'
MAPS = {  # by task of the user: data.columns
    "law": {"id": "name", "question": "q", "choices": "options", "answer": "label"},
    "art": {"question": "q", "choices": ["a", "b", "c"], "answer": "label"},
    "sums": {"question": "q", "answer": "steps", "final": "result"},
    "talk": {"question": "q", "response": "reply"},
    "listed": {"question": "q", "choices": "options", "answer": "label"},
    "numbered": {"question": "q", "choices": "options", "answer": "label"},
}
Kinds = dict[str, tuple[Any, str]]  # by kind: the row, words of the reason; "" where the row is good
CSV: dict[str, tuple[bytes, Kinds]] = {  # by task: the header, its rows
    "law": (
        b"name,q,options,label",
        {
            "good": (b"first,Q1?," + CHOICES + b",A", ""),
            "good, another letter": (b"second,Q2?," + CHOICES + b",B", ""),
            "good, no name": (b",Q3?," + CHOICES + b",C", ""),
            "too few fields": (b"a,Q?", "has 2 fields, the header has 4"),
            "too many fields": (b"b,Q?," + CHOICES + b",A,B", "has 5 fields, the header has 4"),
            "bad JSON": (b'c,Q?,"[""x"",",A', "'options' is not a list"),
            "no JSON": (b"d,Q?,x y,A", "'options' is not a list"),
            "choices of a wrong type": (b"e,Q?,3,A", "'options' must be a list, is a number"),
            "no choices": (b"f,Q?,,A", "'options' is not a list"),
            "one choice": (b'g,Q?,"[""x""]",A', "'options' has 1 entries, needs at least 2"),
            "empty choice": (b'h,Q?,"[""x"","" ""]",A', "choice 1 is empty"),
            "choice of a wrong type": (b'i,Q?,"[""x"",[1]]",A', "choice 1 must be text, is a list"),
            "empty question": (b'j," ",' + CHOICES + b",A", "'q' is empty"),
            "answer hidden": (b"k,Q?," + CHOICES + b",", "'label' is hidden"),
            "answer out of range": (b"l,Q?," + CHOICES + b",D", "must be the letter of a choice, from A, is 'D'"),
            "answer in another form": (b"m,Q?," + CHOICES + b",y!", "must be the letter of a choice, from A, is 'y!'"),
            "not UTF-8": (b"n,Q\xff?," + CHOICES + b",A", "is not UTF-8"),
            "a quote within a field": (b'o,"Q"?,' + CHOICES + b",A", "is not a row of a csv file"),
            "good, after a quote": (b"p,Q4?," + CHOICES + b",A", ""),
            "an open quote": (b'q,"Q?,' + CHOICES.replace(b'"', b"") + b",A", "is not a row of a csv file"),
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
            "answer for an empty column": (b"Q?,x,y,,C", "must be the letter of a choice, from A, is 'C'"),
        },
    ),
    "sums": (
        b"q,steps,result",
        {
            "good": (b"1+1?,1+1 is 2.,2", ""),
            "result that is not a number": (b"1+2?,1+2 is 3.,three", "'result' is not a number: 'three'"),
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
        "empty choice": ({"name": "f", "q": "Q?", "options": ["x", "", "y"], "label": "A"}, "choice 1 is empty"),
        "choice null": ({"name": "g", "q": "Q?", "options": ["x", None, "y"], "label": "A"}, "choice 1 is empty"),
        "answer hidden": ({"name": "h", "q": "Q?", "options": THREE, "label": None}, "'label' is hidden"),
        "answer empty": ({"name": "i", "q": "Q?", "options": THREE, "label": ""}, "'label' is hidden"),
        "answer out of range": (
            {"name": "j", "q": "Q?", "options": THREE, "label": "D"},
            "must be the letter of a choice, from A",
        ),
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
    """Write all tasks as csv files; return by task, for each bad row, ``file:line: `` and words of its reason."""
    expected = {}
    for task, (header, kinds) in CSV.items():
        path = root / f"{task}.csv"
        path.write_bytes(b"\n".join([header, *(row for row, _ in kinds.values())]) + b"\n")
        expected[task] = _expected(path, kinds, first=2)
    return expected


def write_parquet(root: Path) -> dict[str, list[tuple[str, str]]]:
    """The same as parquet files."""
    expected = {}
    for task, kinds in PARQUET.items():
        path, records = root / f"{task}.parquet", [row for row, _ in kinds.values()]
        columns = {name: _column([record[name] for record in records]) for name in records[0]}
        parquet.write_table(pyarrow.table(columns), path)
        expected[task] = _expected(path, kinds, first=1)
    return expected


def _column(values: list[Any]) -> Any:
    """Values as a column; invalid UTF-8 stays in a column of text, as other writers leave it there."""
    if not any(isinstance(value, bytes) for value in values):
        return values
    raw = [value.encode() if isinstance(value, str) else value for value in values]
    return pyarrow.array(raw, pyarrow.binary()).cast(pyarrow.string(), safe=False)


def _expected(path: Path, kinds: Kinds, first: int) -> list[tuple[str, str]]:
    return [(f"{path}:{number}: ", reason) for number, (_, reason) in enumerate(kinds.values(), start=first) if reason]


FORMATS: dict[str, Callable[[Path], dict[str, list[tuple[str, str]]]]] = {"csv": write_csv, "parquet": write_parquet}


def read_own_files(root: Path, form: str) -> list[str]:
    """Read all tasks in one format; return what is missing in its messages, and good rows that they name."""
    by_task = FORMATS[form](root)
    data = DataConfig(name="local", kind="own", columns={task: MAPS[task] for task in by_task})
    return unnamed_rows(data, root, [row for rows in by_task.values() for row in rows])


def unnamed_rows(data: DataConfig, root: Path, expected: Sequence[tuple[str, str]]) -> list[str]:
    """Load rows that are bad; see `missed`."""
    messages: list[str] = []
    try:
        load_dataset(data, SourceConfig(name="local", root=str(root)))
    except UserError as error:
        messages = error.messages
    return missed(messages, expected)


def missed(messages: Sequence[str], expected: Sequence[tuple[str, str]]) -> list[str]:
    """The expected (``file:line: ``, reason) without a message, and the messages that were not expected."""
    wrong = []
    if not messages[-1:] or not messages[-1].startswith(f"{counted(len(expected), 'bad row')}: "):
        wrong.append(f"{len(expected)} bad rows, the last message is {messages[-1:]}")
    others = set(messages[:-1])  # the last message is the number of bad rows
    for start, reason in expected:
        path, line = start.rsplit(":", 2)[:2]
        alone = [message for message in messages if message.startswith(start) and reason in message]
        # Rows with one kind of mistake share a message, which names the first three of them.
        of_file = [message for message in messages if message.startswith(f"{path}:") and "such rows" in message]
        shared = [m for m in of_file if reason in m or line in m.rpartition("the first ")[2].split(", ")]
        if not (alone or shared):
            wrong.append(f"no message {start}{reason}")
        others -= {*alone, *shared}
    return [*wrong, *others]
