"""Rows whose columns look like a known form and that would be read wrongly, refused with what to do instead."""

import re
from collections.abc import Mapping, Sequence

from mosld.common.errors import UserError
from mosld.data.reading.choices import parse_cell
from mosld.data.reading.columns import Column, Head, plain, written
from mosld.data.reading.conversations import ROLES

_REJECTED = re.compile(r"(rejected|nonpreferred|dispreferred)(response|answer|output|completion)?")
_CHOSEN = re.compile(r"(chosen|preferred)(response|answer|output|completion)?")
_WRONG_CHOICES = re.compile(r"(distractor|(incorrect|wrong)[ _-]?(answer|option|choice))s?[ _-]?[0-9]*", re.IGNORECASE)


def refuse_other_rows(columns: Sequence[str], fields: Mapping[str, Column], head: Head) -> None:
    """Refuse rows that would be read wrongly: single messages, and replies that are called good or bad."""
    names = {column.lower() for column in columns}
    for message in ({"role", "content"}, {"from", "value"}, {"role", "text"}):
        if message <= names:
            raise UserError(
                f"holds one message a row ({', '.join(sorted(message))}); put all messages of a conversation into one "
                "row: messages: [{role: user, content: ...}, {role: assistant, content: ...}]"
            )
    by_name = {plain(column): column for column in columns}
    reply = fields.get("response", fields.get("messages"))
    rejected = next((column for name, column in by_name.items() if _REJECTED.fullmatch(name)), None)
    chosen = next((column for name, column in by_name.items() if _CHOSEN.fullmatch(name)), reply)
    if rejected and isinstance(chosen, str):
        raise UserError(
            f"holds preference pairs ({chosen}, {rejected}), which are not trained on; to train on the chosen replies "
            + _map_to(chosen, fields, head)
        )
    wrong = sorted(filter(_WRONG_CHOICES.fullmatch, names))
    if wrong:
        raise UserError(
            f"keeps wrong choices apart ({', '.join(wrong)}); write all choices of a row into one list 'choices', or "
            "give data.columns={response: <column of the right answer>} to train on the right answers alone"
        )
    label = next((column for name, column in by_name.items() if name in ("label", "ktotag")), None)
    if label and isinstance(reply, str) and "choices" not in fields:
        labels = {str(record.get(label)).lower() for record in head([label])}
        if reply == "completion" or labels <= {"true", "false", "1", "0"}:
            raise UserError(
                f"holds replies that a label calls good or bad ({label}), which are not trained on; keep the good "
                f"ones, or to train on all {_map_to(reply, fields, head)}"
            )


def _map_to(reply: str, fields: Mapping[str, Column], head: Head) -> str:
    """What to do to train on the replies in a column."""
    question = str(fields.get("question", ""))
    row = next((row for row in head([reply, question]) if row.get(reply)), {})
    value, prompt = (
        parse_cell(cell) if isinstance(cell, str) and cell.startswith("[{") else cell
        for cell in (row.get(reply), row.get(question))
    )
    first = value[0] if isinstance(value, list) else None
    role = first.get("role", first.get("from")) if isinstance(first, dict) else None
    if isinstance(value, str) and "messages" not in fields:
        columns = (
            f"question: {written(question)}, response: {written(reply)}" if question else f"text: {written(reply)}"
        )
    elif ROLES.get(str(role).lower()) in ("user", "system"):
        columns = f"messages: {written(reply)}"
    elif role and isinstance(prompt, list):
        columns = f"messages: [{written(question)}, {written(reply)}]"
    else:
        return "write them as conversations: messages: [{role: user, content: ...}, {role: assistant, content: ...}]"
    return f"give data.columns={{{columns}}}"
