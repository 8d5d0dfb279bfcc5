"""From a JSON record to a row, and everything that can be wrong with one."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.data.subjects import require_subject
from mosld.data.tasks import Task

# PART: Numbers in text: where one stands, and what it is worth. Only the value counts: 1,200 is 1200.0.


MINUS = "-\u2212"  # the keyboard's and the typographer's
LONGEST = 100  # characters; Python refuses to convert thousands of digits
_NUMBER = (
    rf"(?:(?<![\w.)])[{MINUS}])?"  # after a digit, a word or a bracket it is a subtraction, or a hyphen
    r"[$€£]?"
    rf"(?:(?<=[$€£])[{MINUS}])?"
    r"(?:(?:\d+ )?\d+/0*[1-9]\d*(?!\d|\.\d)"  # 3/4, 2 1/2
    r"|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"  # 1,234.50
    r"|(?<!\d)\.\d+)"  # .5
)
NUMBER = re.compile(_NUMBER)
FINAL = re.compile(rf"####[^\n]*?({_NUMBER})")
"""The line of a worked solution that gives its final number, as in ``#### 72``."""


def value(text: str) -> Fraction | None:
    """What a text that is one number is worth, its currency or per cent sign left out; None if it is no number."""
    text = text.strip().removesuffix("%").rstrip()
    if len(text) > LONGEST or not NUMBER.fullmatch(text):
        return None
    plain = re.sub("[$€£,]", "", text).replace(MINUS[1], MINUS[0])
    whole, _, part = plain.rpartition(" ")  # 2 1/2: the sign is that of both
    return Fraction(whole or "0") + Fraction(f"-{part}" if whole.startswith("-") else part)


def final_number(text: str) -> str | None:
    """The number that a worked solution ends in, as it stands there: the one after ``####``, else the last one."""
    marked = FINAL.search(text)
    if marked:
        return marked[1]
    found = NUMBER.findall(text)
    return found[-1] if found else None


# PART: From a JSON record to a row, and everything that can be wrong with one.


HALF_A_PAIR = re.compile("[\ud800-\udfff]")  # of surrogates


def parse_row(task: Task, record: Any) -> AnyRow:
    """The row that a JSON record holds, of the task's kind.

    Raises:
        ValueError: with the reason, as a reader of the file would put it.
    """
    if not isinstance(record, dict):
        raise ValueError(f"is no object but {_kind(record)}")
    row = PARSERS[task.kind](task.name, record)
    if task.subjects:
        require_subject(row.id)
    return row


def _choice(task: str, record: dict[str, Any]) -> Row:
    _check(record, texts=("id", "question"), others=("choices", "answer"))
    return Row(
        task=task,
        id=record["id"],
        context=record.get("context", "").strip(),
        question=record["question"].strip(),
        choices=_choices(record["choices"]),
        answer=_answer(record["answer"], len(record["choices"])),
    )


def _solution(task: str, record: dict[str, Any]) -> Solution:
    _check(record, texts=("id", "question", "answer", "final"))
    answer, final = record["answer"].strip(), record["final"].strip()
    if value(final) is None:
        raise ValueError(f"'final' is no number: '{final}'")
    marked = next(reversed(list(FINAL.finditer(answer))), None)
    if marked and value(marked[1]) != value(final):
        raise ValueError(f"'final' is {final}, but 'answer' ends in #### {marked[1]}")
    if marked and "\n" in answer[marked.end() :]:
        raise ValueError(f"'answer' goes on after its line '#### {marked[1]}'")
    context, question = record.get("context", "").strip(), record["question"].strip()
    return Solution(task, record["id"], context, question, answer, final)


def _reply(task: str, record: dict[str, Any]) -> Reply:
    _check(record, texts=("id", "question", "response"), optional=("context", "system"))
    texts = (record.get(key, "").strip() for key in ("context", "question", "response", "system"))
    return Reply(task, record["id"], *texts)


PARSERS: dict[str, Callable[[str, dict[str, Any]], AnyRow]] = {
    "choice": _choice,
    "solution": _solution,
    "reply": _reply,
}


def _check(
    record: dict[str, Any], texts: Sequence[str], others: Sequence[str] = (), optional: Sequence[str] = ("context",)
) -> None:
    """Every key is there but the optional ones, those of `texts` hold text that is not empty, a context is text."""
    for key in (*texts, *others):
        if key not in record:
            raise ValueError(f"has no '{key}'")
    for key in (*texts, *optional):
        if not isinstance(record.get(key, ""), str):
            raise ValueError(f"'{key}' must be text, is {_kind(record[key])}")
        _encodable(f"'{key}'", record.get(key, ""))
    for key in texts:
        if not record[key].strip():
            raise ValueError(f"'{key}' is empty")


def _choices(choices: Any) -> tuple[str, ...]:
    if not isinstance(choices, list):
        raise ValueError(f"'choices' must be a list, is {_kind(choices)}")
    if len(choices) < 2:
        raise ValueError(f"'choices' has {len(choices)} entries, needs at least 2")
    if len(choices) > 26:
        raise ValueError(f"'choices' has {len(choices)} entries, there are letters for 26")
    for position, choice in enumerate(choices):
        if not isinstance(choice, str):
            raise ValueError(f"choice {position} must be text, is {_kind(choice)}")
        if not choice.strip():
            raise ValueError(f"choice {position} is empty")
        _encodable(f"choice {position}", choice)
    return tuple(choice.strip() for choice in choices)


def _answer(answer: Any, count: int) -> int:
    if answer is None:
        raise ValueError("'answer' is hidden (null)")
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise ValueError(
            f"'answer' must be a whole number from 0, is {answer if isinstance(answer, float) else _kind(answer)}"
        )
    if not 0 <= answer < count:
        raise ValueError(f"'answer' is {answer}, must lie in 0..{count - 1}")
    return answer


def _encodable(name: str, text: str) -> None:
    if HALF_A_PAIR.search(text):
        raise ValueError(f"{name} holds half a surrogate pair, which is no character")


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")
