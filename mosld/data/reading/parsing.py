"""From a JSON record to a row, with everything that can be wrong with one."""

import re
from collections.abc import Callable, Sequence

from mosld.common.files import JsonObject
from mosld.data.numbers import final_line, value
from mosld.data.reading.bad_rows import RowError, quoted
from mosld.data.reading.values import type_name
from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.data.subjects import require_subject
from mosld.data.tasks import Task

# Half of a surrogate pair, which no UTF-8 text can hold.
SURROGATE = re.compile("[\ud800-\udfff]")


def parse_row(task: Task, record: object) -> AnyRow:
    """Turn a JSON record into a row of the task's kind.

    Raises:
        RowError: the record is bad, with the reason in the terms of the file.
    """
    if not isinstance(record, dict):
        raise RowError(f"must be an object, is {type_name(record)}")
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
        choices=check_choices(record["choices"]),
        answer=_answer(record["answer"], len(record["choices"])),
    )


def _solution(task: str, record: JsonObject) -> Solution:
    _check(record, texts=("id", "question", "answer", "final"))
    answer, final = record["answer"].strip(), record["final"].strip()
    if value(final) is None:
        raise RowError(f"'final' is not a number: {quoted(final)}", "'final' is not a number")
    line = final_line(answer)
    if line and value(line[1]) != value(final):
        raise RowError(
            f"'final' is {final}, but 'answer' ends in #### {line[1].strip()}", "'final' is not what 'answer' ends in"
        )
    if line and "\n" in answer[line.end() :]:
        raise RowError(
            f"'answer' has text after its line '#### {line[1].strip()}'", "'answer' has text after its final line"
        )
    context, question = record.get("context", "").strip(), record["question"].strip()
    return Solution(task, record["id"], context, question, answer, final)


def _reply(task: str, record: JsonObject) -> Reply:
    _check(record, texts=("id", "question", "response"), optional=("context", "system"))
    context, question, response, system = (
        record.get(key, "").strip() for key in ("context", "question", "response", "system")
    )
    history = tuple((question, response) for question, response in record.get("history", ()))
    for text in (text for turn in history for text in turn):
        _check_text("an earlier turn", text)
    return Reply(task, record["id"], context, question, response, system, history)


def _text(task: str, record: JsonObject) -> Reply:
    _check(record, texts=("id", "text"), optional=())
    return Reply(task, record["id"], context="", question="", response=record["text"].strip())


PARSERS: dict[str, Callable[[str, JsonObject], AnyRow]] = {
    "choice": _choice,
    "solution": _solution,
    "reply": _reply,
    "text": _text,
}


def _check(
    record: JsonObject, texts: Sequence[str], others: Sequence[str] = (), optional: Sequence[str] = ("context",)
) -> None:
    """Require the keys of `texts`, as text that is not empty, and of `others`; the `optional` ones are text if set."""
    for key in (*texts, *others):
        if key not in record:
            raise RowError(f"has no '{key}'")
    for key in (*texts, *optional):
        _check_text(f"'{key}'", record.get(key, ""))
    for key in texts:
        if not record[key].strip():
            raise RowError(f"'{key}' is empty")


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise RowError(f"{name} must be text, is {type_name(text)}")
    if not text.isascii() and SURROGATE.search(text):
        raise RowError(f"{name} holds half a surrogate pair, which is not a character")


def check_choices(choices: object) -> tuple[str, ...]:
    """The choices without white space around them.

    Raises:
        RowError: they are no list of at least two texts.
    """
    if not isinstance(choices, list):
        raise RowError(f"'choices' must be a list, is {type_name(choices)}")
    if len(choices) < 2:
        raise RowError(f"'choices' has {len(choices)} entries, needs at least 2", "'choices' has too few entries")
    if len(choices) > 26:
        raise RowError(f"'choices' has {len(choices)} entries, there are letters for 26", "'choices' has too many")
    for index, choice in enumerate(choices):
        try:
            _check_text(f"choice {index}", choice)
        except RowError as error:
            raise RowError(str(error), f"a choice is {type_name(choice)}") from error
        if not choice.strip():
            raise RowError(f"choice {index} is empty", "a choice is empty")
    return tuple(choice.strip() for choice in choices)


def _answer(answer: object, count: int) -> int:
    if answer is None:
        raise RowError("'answer' is hidden (null)")
    if not isinstance(answer, int) or isinstance(answer, bool):
        shown = answer if isinstance(answer, float) else type_name(answer)
        raise RowError(f"'answer' must be a whole number from 0, is {shown}", "'answer' must be a whole number from 0")
    if not 0 <= answer < count:
        raise RowError(f"'answer' is {answer}, must lie in 0..{count - 1}", "'answer' is out of range")
    return answer
