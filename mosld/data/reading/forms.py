"""The forms in which people keep rows: recognised by their columns, and read into the project's fields.

multiple choice    question, choices (or options, or a column for each choice), answer; also {stem, choices} as the
                   question, as ARC and CommonsenseQA are published
worked solutions   question, answer that ends in `#### 72`; or question, answer, final
replies            prompt, response; prompt, completion; instruction, input, output; question, answer
conversations      messages ({role, content}, as OpenAI has them) or conversations ({from, value}, ShareGPT)
plain text         text

`data.columns` names columns that are called otherwise, also nested ones (question.stem).
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mosld.common.errors import UserError, nearest
from mosld.common.files import JsonObject
from mosld.data.numbers import final_line
from mosld.data.reading.bad_rows import RowError
from mosld.data.reading.choices import read_choices
from mosld.data.reading.conversations import read_conversation, read_history
from mosld.data.reading.values import is_missing, text_of

# The names under which a field is looked for, first the project's own; case, spaces and underscores do not matter.
ALIASES = {
    "id": ("id",),
    "split": ("split",),
    "context": ("context", "passage", "article", "story", "premise", "paragraph", "flores_passage"),
    "system": ("system", "system_prompt"),
    "question": (
        "question", "question_stem", "stem", "prompt", "instruction", "query", "problem", "input", "inputs",
        "input_text", "goal", "ctx", "user", "human",
    ),
    "choices": ("choices", "options", "answer_options", "alternatives", "candidates", "endings"),
    "answer": (
        "answer", "answerKey", "label", "answer_idx", "answer_index", "correct_answer", "correct", "correct_option",
        "correct_index", "correct_choice", "correct_answer_num", "right_answer", "cop", "gold", "gold_label", "target",
    ),
    "final": ("final",),
    "response": ("response", "completion", "output", "output_text", "reply", "solution", "assistant"),
    "messages": ("messages", "conversations", "conversation"),
    "history": ("history",),
    "tools": ("tools", "functions"),
    "text": ("text", "content"),
}  # fmt: skip
REQUIRED = {
    "choice": ("question", "choices", "answer"),
    "solution": ("question", "answer", "final"),
    "reply": ("question", "response"),
    "text": ("text",),
}
OPTIONAL = {
    "choice": ("id", "split", "context"),
    "solution": ("id", "split", "context"),
    "reply": ("id", "split", "context", "system", "history", "tools"),
    "text": ("id", "split"),
}
# What makes no form.
ASIDE = ("id", "split", "tools")
# The field that makes a row one of a kind, in the order in which they are looked for.
KIND_OF_FIELD = {"messages": "reply", "choices": "choice", "final": "solution", "response": "reply", "text": "text"}
_CHOICE_COLUMN = re.compile(
    r"(option|choice|opt|op|(?:mc[ _-]?)?answer|ans|sol|ending)?[ _-]*([a-j]|[0-9])", re.IGNORECASE
)
_WRONG_CHOICES = re.compile(r"(distractor|(incorrect|wrong)[ _-]?(answer|option|choice))s?[ _-]?[0-9]*", re.IGNORECASE)
_KNOWN_FORMS = (
    "multiple choice: question, choices, answer; replies: question, response; conversations: messages; worked "
    "solutions: question, answer, final; plain text: text"
)

# Reads the first records with the named columns.
Head = Callable[[Collection[str]], list[JsonObject]]
# A field's column, nested as in question.stem, or one column for each choice.
Column = str | list[str]


@dataclass(frozen=True)
class Form:
    """How a file's columns make rows.

    Attributes:
        kind: of the rows: choice, solution, reply or text.
        title: the form in words, with the columns that decide it.
        columns: the column of each field.
        marks: the letters or numbers by which columns were recognised as one for each choice.
    """

    kind: str
    title: str
    columns: Mapping[str, Column] = field(default_factory=dict)
    marks: Sequence[str] = ()

    @property
    def roots(self) -> set[str]:
        """The names of all columns that are read."""
        named = [name for column in self.columns.values() for name in _names(column)]
        return {*named, *(name.partition(".")[0] for name in named)}

    def shown(self, name: str) -> str:
        """The user's column of a field, for messages."""
        column = self.columns.get(name, name)
        return name if isinstance(column, list) else column

    def rename_fields(self, message: str) -> str:
        """Put the user's columns in place of the project's names of fields in a message."""
        return re.sub(r"'(\w+)'", lambda quoted: f"'{self.shown(quoted[1])}'", message)

    def reader(self) -> Callable[[JsonObject, str], JsonObject]:
        """A function from a raw record and a row's default id to the project's fields.

        Of a choice, `choices` are texts, `labels` those of the choices where they have any, and the answer stays as it
        is in the file.
        """
        getters = {name: _getter(column) for name, column in self.columns.items() if isinstance(column, str)}
        others = ("choices", "answer", "messages", "history", "tools")
        texts = [(name, get) for name, get in getters.items() if name not in others]
        if self.kind == "solution" and "answer" in getters:
            texts.append(("answer", getters["answer"]))

        def read(raw: JsonObject, default_id: str) -> JsonObject:
            record: JsonObject = {name: text_of(get(raw)) for name, get in texts}
            # Dates, UUIDs and lists name a row, too.
            given = record.get("id", _ABSENT)
            given = given.hex() if isinstance(given, bytes) else given
            record["id"] = default_id if given in (_ABSENT, "") else str(given)
            if "tools" in getters and getters["tools"](raw) not in (_ABSENT, None, "", [], "[]"):
                raise RowError("has tools; calls of tools are not trained on")
            if self.kind == "choice":
                column = self.columns["choices"]
                value = [raw.get(name) for name in column] if isinstance(column, list) else getters["choices"](raw)
                record["choices"], labels = read_choices(value)
                record["labels"] = self.marks[: len(value)] if self.marks and isinstance(value, list) else labels
                answer = getters["answer"](raw)
                if isinstance(answer, list) and len(answer) == 1:
                    answer = answer[0]
                record["answer"] = None if answer is not _ABSENT and is_missing(answer) else answer
            elif "messages" in self.columns:
                values = [_getter(name)(raw) for name in _names(self.columns["messages"])]
                if _ABSENT in values:
                    raise RowError("has no 'messages'")
                record |= read_conversation(values, record.get("system"))
            elif "history" in getters:
                history = getters["history"](raw)
                record["history"] = read_history(None if history is _ABSENT else history)
            elif self.kind == "solution" and "final" not in self.columns:
                line = final_line(str(record["answer"]))
                record["final"] = line[1].strip(" *.") if line else _ABSENT
            return {name: value for name, value in record.items() if value is not _ABSENT}

        return read


_ABSENT = object()


def _getter(column: str) -> Callable[[JsonObject], object]:
    """A function that takes a column's value out of a record; a name with a dot may be a nested field."""
    steps = column.split(".")

    def get(raw: JsonObject) -> object:
        if column in raw:
            return raw[column]
        value: object = raw
        for step in steps:
            if not isinstance(value, dict) or step not in value:
                return _ABSENT
            value = value[step]
        return value

    return get


def recognise(columns: Sequence[str], mapping: Mapping[str, object], head: Head) -> Form:
    """The form of a file.

    Args:
        columns: of the file.
        mapping: what `data.columns` says: the user's column (or columns) by field; null leaves a field aside.
        head: reads the first records with the named columns.

    Raises:
        UserError: no form has these columns; one message for each column that is missed.
    """
    mapped = {name: _as_column(column) for name, column in mapping.items() if column is not None}
    aside = {name for name, column in mapping.items() if column is None}
    errors = list(_missing(mapped, columns, head))
    if errors:
        raise UserError(*errors)
    aliases = {name: _alias(name, columns) for name in ALIASES if name not in aside}
    recognised: dict[str, Column] = {name: alias for name, alias in aliases.items() if alias is not None}
    by_letter = _choice_columns(columns)
    if by_letter and "choices" not in recognised:
        recognised["choices"] = by_letter
    fields: dict[str, Column] = {**recognised, **mapped}
    if nested := _nested_question(fields, mapped, head):
        fields |= nested
    kind = _kind(mapped, fields, columns, head)
    marks = [name.strip()[-1].upper() for name in by_letter] if fields.get("choices") is by_letter else []
    return _form(kind, fields, mapped, columns, marks)


def may_be_field(name: str) -> bool:
    """Whether a column of this name is read in some form."""
    return _plain(name) in _PLAIN_ALIASES or _CHOICE_COLUMN.fullmatch(name.strip()) is not None


def _names(column: Column) -> list[str]:
    return [column] if isinstance(column, str) else column


def _as_column(column: object) -> Column:
    return [str(name) for name in column] if isinstance(column, list) else str(column)


def _missing(mapped: Mapping[str, Column], columns: Sequence[str], head: Head) -> Iterator[str]:
    """A message for each mapped column that the file does not have."""
    for column in mapped.values():
        for name in _names(column):
            root = name.partition(".")[0]
            if name in columns:
                continue
            if root not in columns:
                yield f"has no column '{name}'; {nearest(name, columns)}"
            elif all(_getter(name)(record) is _ABSENT for record in head([root])):
                inner = [key for record in head([root]) if isinstance(record[root], dict) for key in record[root]]
                yield f"has no column '{name}'; {nearest(name, [f'{root}.{key}' for key in dict.fromkeys(inner)])}"


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


_PLAIN_ALIASES = {_plain(alias) for aliases in ALIASES.values() for alias in aliases}


def _alias(name: str, columns: Sequence[str]) -> str | None:
    plain = {_plain(column): column for column in reversed(columns)}
    # The project's own spelling first.
    return next((alias for alias in ALIASES[name] if alias in columns), None) or next(
        (plain[_plain(alias)] for alias in ALIASES[name] if _plain(alias) in plain), None
    )


def _choice_columns(columns: Sequence[str]) -> list[str]:
    """The columns A, B, C, ... or option_1, option_2, ..., one for each choice; none where there are not two."""
    groups: dict[str, dict[str, str]] = {}
    for column in columns:
        match = _CHOICE_COLUMN.fullmatch(column.strip())
        if match and (match[1] or match[2].isalpha()):
            groups.setdefault(f"{(match[1] or '').lower()}{match[2].isdigit()}", {})[match[2].lower()] = column
    for group in groups.values():
        for first in ("abcdefghij", "0123456789", "123456789"):
            run = []
            for mark in first:
                if mark not in group:
                    break
                run.append(group[mark])
            if len(run) >= 2:
                return run
    return []


def _nested_question(fields: Mapping[str, Column], mapped: Mapping[str, Column], head: Head) -> dict[str, Column]:
    """The columns of a question that is an object {stem, choices}."""
    question = fields.get("question")
    if not isinstance(question, str) or "question" in mapped or "." in question:
        return {}
    first = next((record[question] for record in head([question]) if isinstance(record.get(question), dict)), None)
    if not isinstance(first, dict) or "stem" not in first:
        return {}
    nested: dict[str, Column] = {"question": f"{question}.stem"}
    if "choices" in first and "choices" not in mapped:
        nested["choices"] = f"{question}.choices"
    return nested


def _kind(
    mapped: Mapping[str, Column],
    fields: dict[str, Column],
    columns: Sequence[str],
    head: Head,
) -> str:
    """The kind of the rows: first the columns that are mapped decide, then those of the file."""
    if not mapped:
        _refuse_other_rows({column.lower() for column in columns})
    for names in (mapped, fields):
        for name, kind in KIND_OF_FIELD.items():
            # Plain text would lose a label beside it.
            if name in names and not (name == "text" and "answer" in fields):
                if kind == "reply" and name == "response" and _as_messages(fields, head):
                    fields["messages"] = ["prompt", "completion"]
                return kind
    if "question" in fields and isinstance(fields.get("answer"), str):
        answer = str(fields["answer"])
        # A number is an answer, in a column 'label' it is that of a choice.
        kinds = (str, int, float) if _plain(answer) == "answer" else (str,)
        values = [value for record in head([answer]) if isinstance(value := _getter(answer)(record), kinds)]
        texts = [str(value) for value in values if not isinstance(value, bool)]
        marked = sum(final_line(text) is not None for text in texts)
        if marked and marked < len(texts):
            raise UserError(
                f"'{answer}' ends in a line '#### <number>' in {marked} of the first {len(texts)} rows; correct the "
                f"others to read worked solutions, or give data.columns={{response: {answer}}} to read replies"
            )
        if marked:
            return "solution"
        if texts:
            fields["response"] = answer
            return "reply"
    if "question" in fields and isinstance(fields.get("answer"), str):
        raise UserError(
            f"has answers ('{fields['answer']}') that are no text, and no choices: for multiple choice add a list "
            '\'choices\' (of truth values ["no", "yes"]) or name it with data.columns={choices: ...}; for replies '
            "write the answers as text"
        )
    missing = "response" if "question" in fields else "question"
    raise UserError(
        f"its columns are of no known form ({_KNOWN_FORMS}); name yours with data.columns={{{missing}: ...}}; "
        f"{nearest(missing, columns)}"
    )


def _refuse_other_rows(columns: set[str]) -> None:
    """Refuse rows that would be read wrongly: single messages, and replies that are called good or bad."""
    for message in ({"role", "content"}, {"from", "value"}, {"role", "text"}):
        if message <= columns:
            raise UserError(
                f"holds one message a row ({', '.join(sorted(message))}); put all messages of a conversation into one "
                "row: messages: [{role: user, content: ...}, {role: assistant, content: ...}]"
            )
    if {"chosen", "rejected"} <= columns:
        raise UserError(
            "holds preference pairs (chosen, rejected), which are not trained on; to train on the chosen replies give "
            "data.columns={question: prompt, response: chosen}"
        )
    wrong = sorted(filter(_WRONG_CHOICES.fullmatch, columns))
    if wrong:
        raise UserError(
            f"keeps wrong choices apart ({', '.join(wrong)}); write all choices of a row into one list 'choices', or "
            "give data.columns={response: <column of the right answer>} to train on the right answers alone"
        )
    if {"prompt", "completion", "label"} <= columns:
        raise UserError(
            "holds replies that a label calls good or bad, which are not trained on; keep the good ones, or give "
            "data.columns={question: prompt, response: completion} to train on all"
        )


def _as_messages(fields: Mapping[str, Column], head: Head) -> bool:
    """Whether prompt and completion are lists of messages."""
    return (
        fields.get("question") == "prompt"
        and fields.get("response") == "completion"
        and any(isinstance(record.get("prompt"), list) for record in head(["prompt"]))
    )


def _form(
    kind: str, fields: dict[str, Column], mapped: Mapping[str, Column], columns: Sequence[str], marks: Sequence[str]
) -> Form:
    conversation = kind == "reply" and "messages" in fields and "response" not in mapped
    required: tuple[str, ...] = ("messages",) if conversation else REQUIRED[kind]
    if kind == "solution" and "final" not in fields:
        required = ("question", "answer")
    missing = [name for name in required if name not in fields]
    if missing:
        raise UserError(
            *(
                f"has no column '{name}'; name yours with data.columns={{{name}: ...}}; {nearest(name, columns)}"
                for name in missing
            )
        )
    taken = {name: fields[name] for name in (*required, *OPTIONAL[kind]) if name in fields}
    # The input of an instruction is what it is about.
    if kind == "reply" and "context" not in taken and fields.get("question") == "instruction" and "input" in columns:
        taken["context"] = "input"
    words = {"choice": "multiple-choice questions", "solution": "worked solutions", "reply": "replies", "text": "texts"}
    shown = ", ".join(name for field, column in taken.items() if field not in ASIDE for name in _names(column))
    return Form(kind, f"{'conversations' if conversation else words[kind]} ({shown})", taken, marks)
