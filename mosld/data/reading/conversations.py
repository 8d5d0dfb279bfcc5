"""Conversations as OpenAI ({role, content}) and ShareGPT ({from, value}) keep them, read into the fields of a reply."""

from collections.abc import Sequence
from itertools import pairwise, zip_longest

from mosld.common.files import JsonObject
from mosld.data.reading.bad_rows import RowError, quoted
from mosld.data.reading.choices import parse_cell
from mosld.data.reading.values import type_name

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "ai": "assistant", "bot": "assistant", "chatbot": "assistant",
}  # fmt: skip
# How other trainers choose the messages that they train on.
TRAINED_FLAGS = ("weight", "train", "loss")
# Types of the parts of a message that are text.
_TEXT_PARTS = (None, "text", "input_text", "output_text")
# What a model thought before it answered.
REASONING = ("reasoning_content", "reasoning", "thinking")


def read_conversation(values: Sequence[object], system: object) -> JsonObject:
    """The fields of a reply: the last turn, with the system prompt and the turns before it.

    Args:
        values: lists of messages that follow each other, or their JSON.
        system: what a column of its own says: a text, or its parts.

    Raises:
        RowError: the messages are no turns of a user and an assistant, one after the other.
    """
    messages = [_message(message) for value in values for message in _list(value)]
    system = _text(system or "", "the system prompt")
    if messages and messages[0][0] == "system":
        inner = messages.pop(0)[1]
        if system and inner != system:
            raise RowError("'messages' has a system prompt of its own beside the one in 'system'")
        system = inner
    roles = [role for role, _ in messages]
    if "system" in roles:
        raise RowError("'messages' has a system prompt after the first message")
    if not roles or roles[0] != "user":
        raise RowError("'messages' must begin with what the user says")
    if any(first == second for first, second in pairwise(roles)):
        raise RowError("'messages' has two messages of one role, one after the other")
    if roles[-1] != "assistant":
        raise RowError("'messages' ends with what the user says: there is no answer to learn")
    texts = [text for _, text in messages]
    turns = list(zip(texts[::2], texts[1::2], strict=True))
    if any(not text for text in texts):
        raise RowError("'messages' has an empty message")
    question, response = turns[-1]
    return {"system": system, "history": turns[:-1], "question": question, "response": response}


def read_history(value: object) -> list[tuple[str, str]]:
    """The earlier turns in a column of their own: pairs of what the user said and what the assistant answered.

    Raises:
        RowError: it holds something else.
    """
    turns = [] if value is None or value == "" else _list(value)
    if not all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) and text.strip() for text in turn)
        for turn in turns
    ):
        raise RowError("'history' must be a list of pairs of texts, what the user said and the answer")
    return [(turn[0].strip(), turn[1].strip()) for turn in turns if isinstance(turn, list)]


def _list(value: object) -> list[object]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_cell(value)
        if value is None:
            raise RowError("'messages' is not a JSON list (nor one as Python writes it, with commas)")
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        # As datasets keeps a sequence of objects: {"role": [...], "content": [...]}
        value = [dict(zip(value, parts, strict=True)) for parts in zip_longest(*value.values())]
    if not isinstance(value, list):
        raise RowError(f"'messages' must be a list of messages, is {type_name(value)}")
    return value


def _message(message: object) -> tuple[str, str]:
    """The role and the text of a message."""
    if not isinstance(message, dict):
        raise RowError(f"a message must be an object, is {type_name(message)}")
    name = message.get("role", message.get("from"))
    if name is None:
        raise RowError(f"a message does not say who it is from ('role', or 'from'); it has {', '.join(message)}")
    role = ROLES.get(str(name).strip().lower())
    if role is None:
        raise RowError(
            f"a message is from {quoted(name)}; known are {', '.join(ROLES)} (calls of tools are not trained on)",
            f"a message is from {name}",
        )
    # True is 1.
    flag = next((key for key in TRAINED_FLAGS if message.get(key) not in (None, 1)), None)
    if flag:
        raise RowError(f"a message has a {flag} other than 1, which is not supported (data.train_turns chooses turns)")
    if any(message.get(key) for key in ("tool_calls", "function_call")):
        raise RowError("a message calls a tool; calls of tools are not trained on")
    apart = next((key for key in REASONING if message.get(key)), None)
    if apart:
        raise RowError(f"a message has '{apart}' apart, which is not trained on; write it into 'content' or remove it")
    text = next((message[key] for key in ("content", "value", "text") if message.get(key) is not None), None)
    if text is None:
        raise RowError(f"a message has no text ('content', 'value' or 'text'); it has {', '.join(message)}")
    return role, _text(text, "the text of a message").strip()


def _text(value: object, name: str) -> str:
    """A text, or one in parts."""
    if isinstance(value, list):
        value = "".join(map(_part, value))
    if not isinstance(value, str):
        raise RowError(f"{name} must be text, is {type_name(value)}")
    return value


def _part(part: object) -> str:
    """The text of one part of a message."""
    if isinstance(part, str):
        raise RowError("a message is a list of texts; join them to one text")
    if isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type") in _TEXT_PARTS:
        return part["text"]
    raise RowError("a message holds more than text (images and sound are not read)")
