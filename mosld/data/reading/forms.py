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
from decimal import Decimal

from mosld.common.errors import UserError, nearest
from mosld.common.files import JsonObject
from mosld.data.numbers import final_line
from mosld.data.reading.bad_rows import RowError
from mosld.data.reading.choices import named_answer, read_choices
from mosld.data.reading.columns import Column, Head, choice_columns, choice_mark, plain, written
from mosld.data.reading.conversations import read_conversation, read_history
from mosld.data.reading.refused_rows import refuse_other_rows
from mosld.data.reading.values import is_missing, text_of

# The names under which a field is looked for, first the project's own; case, spaces and underscores do not matter.
ALIASES = {
    "id": ("id",),
    "split": ("split", "partition", "data_split", "dataset_split", "set", "subset"),
    "context": ("context", "passage", "article", "story", "premise", "paragraph", "flores_passage"),
    "system": ("system", "system_prompt"),
    "question": (
        "question", "question_stem", "stem", "prompt", "instruction", "query", "problem", "input", "inputs",
        "input_text", "goal", "ctx", "user", "human",
    ),
    "choices": ("choices", "options", "answer_options", "alternatives", "candidates", "endings", "choice"),
    "answer": (
        "answer", "answerKey", "label", "answer_idx", "answer_index", "correct_answer", "correct", "correct_option",
        "correct_index", "correct_choice", "correct_answer_num", "right_answer", "cop", "gold", "gold_label", "target",
        "targets",
    ),
    "final": ("final",),
    "response": ("response", "completion", "output", "output_text", "reply", "solution", "assistant"),
    "messages": ("messages", "conversations", "conversation"),
    "history": ("history",),
    "tools": ("tools", "functions"),
    "images": ("images", "image", "image_1", "audio", "audios", "video", "videos"),
    "text": ("text", "content"),
}  # fmt: skip
REQUIRED = {
    "choice": ("question", "choices", "answer"),
    "solution": ("question", "answer", "final"),
    "reply": ("question", "response"),
    "text": ("text",),
}
OPTIONAL = {
    "choice": ("id", "split", "context", "images"),
    "solution": ("id", "split", "context", "images"),
    "reply": ("id", "split", "context", "system", "history", "tools", "images"),
    "text": ("id", "split", "images"),
}
# What rows may have and nobody trains on.
UNTRAINED = {"tools": "calls of tools", "images": "images and sound"}
# What makes no form.
ASIDE = ("id", "split", *UNTRAINED)
# The field that makes a row one of a kind, in the order in which they are looked for.
KIND_OF_FIELD = {"messages": "reply", "choices": "choice", "final": "solution", "response": "reply", "text": "text"}
_LETTER = re.compile(r"\(?[A-J][).]?")
_KNOWN_FORMS = (
    "multiple choice: question, choices, answer; replies: question, response; conversations: messages; worked "
    "solutions: question, answer, final; plain text: text"
)


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
        others = ("choices", "answer", "messages", "history", *UNTRAINED)
        texts = [(name, get) for name, get in getters.items() if name not in others]
        if self.kind == "solution" and "answer" in getters:
            texts.append(("answer", getters["answer"]))

        def read(raw: JsonObject, default_id: str) -> JsonObject:
            record: JsonObject = {name: text_of(get(raw)) for name, get in texts}
            # Dates, UUIDs and lists name a row, too.
            given = record.get("id", _ABSENT)
            given = given.hex() if isinstance(given, bytes) else given
            record["id"] = default_id if given in (_ABSENT, "") else str(given)
            for name, what in UNTRAINED.items():
                if name in getters and not _is_empty(getters[name](raw)):
                    raise RowError(
                        f"has {self.shown(name)}; {what} are not trained on: leave such rows out with "
                        f"source.on_bad_row=skip, or the column aside with data.columns={{{name}: null}}"
                    )
            if self.kind == "choice":
                column = self.columns["choices"]
                value = [raw.get(name) for name in column] if isinstance(column, list) else getters["choices"](raw)
                record["choices"], labels = read_choices(value)
                record["labels"] = self.marks[: len(value)] if self.marks and isinstance(value, list) else labels
                answer = named_answer(getters["answer"](raw))
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


def _is_empty(value: object) -> bool:
    """Whether a cell holds nothing, also not in its parts."""
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    return value is _ABSENT or is_missing(value) or value in ([], "[]", "{}")


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
    # A column called choice may hold the one that is right.
    one = aliases.get("choices")
    if one and plain(one) == "choice" and not any(str(row.get(one)).startswith(("[", "{")) for row in head([one])):
        del recognised["choices"]
    by_letter = choice_columns(columns)
    if by_letter and "choices" not in recognised:
        recognised["choices"] = by_letter
    fields: dict[str, Column] = {**recognised, **mapped}
    if nested := _nested_question(fields, mapped, head):
        fields |= nested
    kind = _kind(mapped, fields, columns, head)
    marks = list(map(choice_mark, by_letter)) if fields.get("choices") is by_letter else []
    return _form(kind, fields, mapped, columns, marks, aside)


def may_be_field(name: str) -> bool:
    """Whether a column of this name is read in some form."""
    return plain(name) in _PLAIN_ALIASES or choice_mark(name) != ""


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


def _ask(name: str, columns: Sequence[str]) -> str:
    """How to name the column of a field."""
    quoted = next((column for column in columns if written(column) != column), None)
    hint = f" A name such as {written(quoted)} needs its quotation marks." if quoted else ""
    return f"name yours with data.columns={{{name}: ...}}; {nearest(name, columns)}{hint}"


_PLAIN_ALIASES = {plain(alias) for aliases in ALIASES.values() for alias in aliases}


def _alias(name: str, columns: Sequence[str]) -> str | None:
    by_name = {plain(column): column for column in reversed(columns)}
    # The project's own spelling first.
    return next((alias for alias in ALIASES[name] if alias in columns), None) or next(
        (by_name[plain(alias)] for alias in ALIASES[name] if plain(alias) in by_name), None
    )


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
        refuse_other_rows(columns, fields, head)
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
        kinds = (str, bytes, int, float, Decimal) if plain(answer) == "answer" else (str, bytes)
        values = [value for record in head([answer]) if isinstance(value := _getter(answer)(record), kinds)]
        texts = [str(text_of(value)) for value in values if not isinstance(value, bool)]
        marked = sum(final_line(text) is not None for text in texts)
        if marked and marked < len(texts):
            raise UserError(
                f"'{answer}' ends in a line '#### <number>' in {marked} of the first {len(texts)} rows; correct the "
                f"others to read worked solutions, or give data.columns={{response: {answer}}} to read replies"
            )
        if marked:
            return "solution"
        if texts and "answer" not in mapped and all(_LETTER.fullmatch(text.strip()) for text in texts):
            raise UserError(
                f"has answers ('{answer}') that are letters, and no choices: name them with data.columns={{choices: "
                f"...}}, or give data.columns={{response: {answer}}} to train on replies of one letter"
            )
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
    raise UserError(f"its columns are of no known form ({_KNOWN_FORMS}); {_ask(missing, columns)}")


def _as_messages(fields: Mapping[str, Column], head: Head) -> bool:
    """Whether prompt and completion are lists of messages."""
    return (
        fields.get("question") == "prompt"
        and fields.get("response") == "completion"
        and any(str(record.get("prompt")).startswith("[{") for record in head(["prompt"]))
    )


def _form(
    kind: str,
    fields: dict[str, Column],
    mapped: Mapping[str, Column],
    columns: Sequence[str],
    marks: Sequence[str],
    aside: Collection[str],
) -> Form:
    conversation = kind == "reply" and "messages" in fields and "response" not in mapped
    required: tuple[str, ...] = ("messages",) if conversation else REQUIRED[kind]
    if kind == "solution" and "final" not in fields:
        required = ("question", "answer")
    missing = [name for name in required if name not in fields]
    if missing:
        raise UserError(*(f"has no column '{name}'; {_ask(name, columns)}" for name in missing))
    taken = {name: fields[name] for name in (*required, *OPTIONAL[kind]) if name in fields}
    # The input of an instruction is what it is about.
    given = next((column for column in columns if plain(column) in ("input", "inputs")), None)
    if kind == "reply" and not conversation and given and given not in taken.values() and "context" not in aside:
        if "context" in taken and "context" not in mapped:
            raise UserError(
                f"has both '{taken['context']}' and '{given}', of which one can stand before the question; say which "
                f"with data.columns={{context: {taken['context']}}} or data.columns={{context: {given}}}"
            )
        taken.setdefault("context", given)
    words = {"choice": "multiple-choice questions", "solution": "worked solutions", "reply": "replies", "text": "texts"}
    shown = ", ".join(name for field, column in taken.items() if field not in ASIDE for name in _names(column))
    return Form(kind, f"{'conversations' if conversation else words[kind]} ({shown})", taken, marks)
