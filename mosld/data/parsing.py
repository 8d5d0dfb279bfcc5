"""From a JSON record to a row, with everything that can be wrong with one."""

import re
from collections.abc import Callable, Sequence

from mosld.common.files import JsonObject
from mosld.data.numbers import final_line, value
from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.data.subjects import require_subject
from mosld.data.tasks import Task

# Half of a surrogate pair, which no UTF-8 text can hold.
SURROGATE = re.compile("[\ud800-\udfff]")


def parse_row(task: Task, record: object) -> AnyRow:
    """Turn a JSON record into a row of the task's kind.

    Raises:
        ValueError: the record is bad, with the reason in the terms of the file.
    """
    if not isinstance(record, dict):
        raise ValueError(f"must be an object, is {_type(record)}")
    row = PARSERS[task.kind](task.name, record)
    if task.subjects:
        require_subject(row.id)
    return row


def _choice(task: str, record: JsonObject) -> Row:
    _check(record, texts=("id", "question"), others=("choices", "answer"))
    return Row(
        task=task,
        id=record["id"],
        context=record.get("context", "").strip(),
        question=record["question"].strip(),
        choices=_choices(record["choices"]),
        answer=_answer(record["answer"], len(record["choices"])),
    )


def _solution(task: str, record: JsonObject) -> Solution:
    _check(record, texts=("id", "question", "answer", "final"))
    answer, final = record["answer"].strip(), record["final"].strip()
    if value(final) is None:
        raise ValueError(f"'final' is not a number: '{final}'")
    line = final_line(answer)
    if line and value(line[1]) != value(final):
        raise ValueError(f"'final' is {final}, but 'answer' ends in #### {line[1].strip()}")
    if line and "\n" in answer[line.end() :]:
        raise ValueError(f"'answer' has text after its line '#### {line[1].strip()}'")
    context, question = record.get("context", "").strip(), record["question"].strip()
    return Solution(task, record["id"], context, question, answer, final)


def _reply(task: str, record: JsonObject) -> Reply:
    _check(record, texts=("id", "question", "response"), optional=("context", "system"))
    texts = (record.get(key, "").strip() for key in ("context", "question", "response", "system"))
    return Reply(task, record["id"], *texts)


PARSERS: dict[str, Callable[[str, JsonObject], AnyRow]] = {
    "choice": _choice,
    "solution": _solution,
    "reply": _reply,
}


def _check(
    record: JsonObject, texts: Sequence[str], others: Sequence[str] = (), optional: Sequence[str] = ("context",)
) -> None:
    """Require the keys of `texts`, as text that is not empty, and of `others`; the `optional` ones are text if set."""
    for key in (*texts, *others):
        if key not in record:
            raise ValueError(f"has no '{key}'")
    for key in (*texts, *optional):
        _check_text(f"'{key}'", record.get(key, ""))
    for key in texts:
        if not record[key].strip():
            raise ValueError(f"'{key}' is empty")


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{name} must be text, is {_type(text)}")
    if SURROGATE.search(text):
        raise ValueError(f"{name} holds half a surrogate pair, which is not a character")


def _choices(choices: object) -> tuple[str, ...]:
    if not isinstance(choices, list):
        raise ValueError(f"'choices' must be a list, is {_type(choices)}")
    if len(choices) < 2:
        raise ValueError(f"'choices' has {len(choices)} entries, needs at least 2")
    if len(choices) > 26:
        raise ValueError(f"'choices' has {len(choices)} entries, there are letters for 26")
    for index, choice in enumerate(choices):
        _check_text(f"choice {index}", choice)
        if not choice.strip():
            raise ValueError(f"choice {index} is empty")
    return tuple(choice.strip() for choice in choices)


def _answer(answer: object, count: int) -> int:
    if answer is None:
        raise ValueError("'answer' is hidden (null)")
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise ValueError(
            f"'answer' must be a whole number from 0, is {answer if isinstance(answer, float) else _type(answer)}"
        )
    if not 0 <= answer < count:
        raise ValueError(f"'answer' is {answer}, must lie in 0..{count - 1}")
    return answer


def _type(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")
