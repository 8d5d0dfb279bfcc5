"""Rows as conversations in the tokenizer's chat template, where each answer begins and ends in the rendered text."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from mosld.common.errors import UserError
from mosld.common.machine import foreign_code, time_limit
from mosld.data.tokens.literal_text import LiteralText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# One row takes milliseconds.
TEMPLATE_SECONDS = 5.0
# A reply that no template changes.
SAMPLE = "Yes"


@dataclass(frozen=True, slots=True)
class PromptText:
    """A row as text.

    Attributes:
        earlier: for each earlier turn whose answer is told apart, the text before the answer, and the answer.
        prompt: the text from there to the last answer.
        options: the possible last answers.
    """

    earlier: list[tuple[str, str]]
    prompt: str
    options: list[str]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat template takes.

    Attributes:
        name: of the row, for messages.
        system: the system message, or "".
        turns: what the user wrote and the assistant answered, before the last question.
        question: what the user wrote last.
        answers: the possible answers to it.
    """

    name: str
    system: str
    turns: Sequence[tuple[str, str]]
    question: str
    answers: Sequence[str]


class ChatTemplate:
    """The chat template of a tokenizer.

    Attributes:
        end_of_turn: the special token that the template puts after an assistant's text; None if it puts none.
        lead: what the template puts between its generation prompt and that text, such as an empty block of thoughts.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", literal: LiteralText) -> None:
        """Render a sample to see how the template ends a turn."""
        self.tokenizer = tokenizer
        self.literal = literal
        sample = Conversation("a sample", "", (), "Is it?", ())
        asked = self._render(sample, self._messages(sample), True)
        answered = self._render(sample, [*self._messages(sample), _message("assistant", SAMPLE)], False)
        bare, ended = self._answer(answered[len(asked) :], SAMPLE)
        self.lead = bare.partition(SAMPLE)[0].strip()
        self.end_of_turn = ended[len(bare) :] or None

    def text(self, conversation: Conversation, train: bool, all_turns: bool) -> PromptText:
        """The conversation as text, in which special tokens that the user wrote are marked as literal.

        Args:
            conversation: a row.
            train: the options end with the template's end of a turn, and every prompt is checked to begin as trained.
            all_turns: the answers of earlier turns are told apart.

        Raises:
            UserError: the template refuses the row, or does not show an answer as it asks for it.
        """
        messages = self._messages(conversation)
        asked = self._render(conversation, messages, True)
        options = []
        for answer in conversation.answers:
            text = self.literal.mark(answer)
            whole = self._render(conversation, [*messages, _message("assistant", text)], False)
            if not whole.startswith(asked):
                raise UserError(
                    f"prompt=chat: the chat template of this model does not put {conversation.name} as it asks for its "
                    "answer; give another prompt."
                )
            bare, ended = self._answer(whole[len(asked) :], text)
            options.append(ended if train else bare)
        turns = self._earlier(conversation, messages, asked, train) if all_turns else []
        start = sum(len(before) + len(answer) for before, answer in turns)
        return PromptText(turns, asked[start:], options)

    def _earlier(
        self, conversation: Conversation, messages: list[dict[str, str]], asked: str, train: bool
    ) -> list[tuple[str, str]]:
        """For each earlier turn the text before its answer, and the answer with its end."""
        turns: list[tuple[str, str]] = []
        start = 0
        for position, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(conversation, messages[:position], True)
            alone = self._render(conversation, messages[: position + 1], False)
            _, ended = self._answer(alone[len(before) :], message["content"])
            end = len(before) + len(ended)
            if not alone.startswith(before) or not asked.startswith(alone[:end]):
                if train:
                    raise UserError(
                        f"prompt=chat: the chat template of this model changes earlier turns ({conversation.name}), so "
                        "not all of them can be trained on; set data.train_turns=last."
                    )
                return []
            turns.append((asked[start : len(before)], asked[len(before) : end]))
            start = end
        return turns

    def _messages(self, conversation: Conversation) -> list[dict[str, str]]:
        """All messages before the last answer."""
        texts = [("system", conversation.system)] if conversation.system else []
        for question, answer in conversation.turns:
            texts += [("user", question), ("assistant", answer)]
        return [_message(role, self.literal.mark(text)) for role, text in [*texts, ("user", conversation.question)]]

    def _render(self, conversation: Conversation, messages: list[dict[str, str]], ask: bool) -> str:
        # Beside jinja2's own errors, whatever the template's expressions raise.
        with (
            foreign_code(
                lambda error: (
                    f"prompt=chat: the chat template of this model refuses {conversation.name}: {error}. "
                    "Change the row, or give another prompt."
                )
            ),
            time_limit(TEMPLATE_SECONDS, "prompt=chat: the chat template of this model"),
        ):
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        return cast("str", text)

    def _answer(self, text: str, answer: str) -> tuple[str, str]:
        """An answer at the beginning of a rendered text, without and with the end of its turn."""
        content = answer.strip()
        # A template may strip an answer, or put something before it.
        end = text.index(content) + len(content) if content in text else 0
        special = self.literal.special.search(text, end)
        if special is None:
            return text[:end], text[:end]
        return text[: special.start()], text[: special.end()]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The special token that ends an assistant's turn in the tokenizer's chat template; None if there is none."""
    if not tokenizer.chat_template:
        return None
    # A template that cannot be used in a chat says nothing of other prompts.
    with suppress(UserError):
        token = ChatTemplate(tokenizer, LiteralText(tokenizer)).end_of_turn
        return cast("int", tokenizer.convert_tokens_to_ids(token)) if token else None
    return None
