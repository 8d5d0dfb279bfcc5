"""One multiple-choice row, and everything that can be wrong with one."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """A multiple-choice question.

    Attributes:
        task: name of the task it belongs to.
        id: unique within its task.
        context: a passage, or "".
        question: the question or stem.
        choices: at least two options.
        answer: index of the right option, from 0.
    """

    task: str
    id: str
    context: str
    question: str
    choices: tuple[str, ...]
    answer: int


def parse_row(task: str, record: Any) -> Row:
    """The row that a JSON record holds.

    Raises:
        ValueError: with the reason, as a reader of the file would put it.
    """
    if not isinstance(record, dict):
        raise ValueError(f"is no object but {_kind(record)}")
    for key in ("id", "question", "choices", "answer"):
        if key not in record:
            raise ValueError(f"has no '{key}'")
    for key in ("id", "question", "context"):
        if not isinstance(record.get(key, ""), str):
            raise ValueError(f"'{key}' must be text, is {_kind(record[key])}")
        _encodable(f"'{key}'", record.get(key, ""))
    for key in ("id", "question"):
        if not record[key].strip():
            raise ValueError(f"'{key}' is empty")
    return Row(
        task=task,
        id=record["id"],
        context=record.get("context", "").strip(),
        question=record["question"].strip(),
        choices=_choices(record["choices"]),
        answer=_answer(record["answer"], len(record["choices"])),
    )


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
    if any("\ud800" <= letter <= "\udfff" for letter in text):
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
