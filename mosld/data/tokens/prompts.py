"""The prompt formats, and the tokens of prompt and options.

letter  lettered options in the prompt; the answer is one letter
list    options listed in the prompt; the answer is the option's text
cloze   no options in the prompt; the answer is the option's text (as lm-evaluation-harness scores ARC)
chat    the tokenizer's chat template: lettered options, or a conversation; without a template the plain form of letter

A question without options has one plain form: its answer is the worked solution or the response. A conversation is a
series of such questions, each answer with the end-of-text token. Texts are literal: a special token that a user wrote
out is text, and only a template writes special tokens.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from string import ascii_uppercase
from types import MappingProxyType
from typing import TYPE_CHECKING

from mosld.data.numbers import final_line, value
from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.data.subjects import subject_of
from mosld.data.tasks import TASKS, Task
from mosld.data.tokens.chat_template import ChatTemplate, Conversation, PromptText
from mosld.data.tokens.literal_text import LiteralText, Segment
from mosld.data.tokens.token_table import Chunks, TokenTable

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from transformers import PreTrainedTokenizerBase

# The indices of the options of a row to encode.
Keep = Callable[[AnyRow], Sequence[int]]
# Makes a batch of a table from a chunk of rows.
EncodeChunk = Callable[[Sequence[AnyRow]], "RecordBatch"]
# `<<48/2=24>>` in a published solution, for a calculator that fills in the result.
CALCULATOR_MARK = re.compile("<<[^<>]*>>")
# `#### 72`, or a heading.
MARKED_LINE = re.compile(r"^####[ \t]*([^#\n]*)$", re.MULTILINE)
TURN_SEPARATOR = "\n\n"
# The share of the cutoff that the prompt of a reply keeps where its response is truncated.
REPLY_PROMPT_SHARE = 3 / 4


@dataclass(frozen=True, slots=True)
class Encoded:
    """A question as tokens.

    Attributes:
        row: the question.
        prompt: tokens that all options share.
        options: the tokens of each option after the shared ones; none where the answer is generated.
        cut: whether earlier turns were dropped or the passage was truncated to fit the task's cutoff.
        shots: solved examples before the question.
        earlier: where the answers of earlier turns lie in the prompt, each from its first token to after its last.
        untruncated: tokens before the row was shortened; 0 if it was not too long.
    """

    row: AnyRow
    prompt: list[int]
    options: list[list[int]]
    cut: bool = False
    shots: int = 0
    earlier: tuple[tuple[int, int], ...] = ()
    untruncated: int = 0

    @property
    def length(self) -> int:
        """Tokens of the prompt and its longest option."""
        return len(self.prompt) + max(map(len, self.options), default=0)


def render(row: AnyRow, style: str) -> tuple[str, list[str]]:
    """The prompt and the options of a row as text, without earlier turns; each option begins with a space."""
    passage = f"{row.context}\n\n" if row.context else ""
    if isinstance(row, Solution):
        return f"{passage}Question: {row.question}\nAnswer:", [f" {solution_text(row)}"]
    if isinstance(row, Reply):
        if is_plain_text(row):
            return "", [row.response]
        system = f"{row.system}\n\n" if row.system and not row.history else ""
        return f"{system}{passage}Question: {row.question}\nAnswer:", [f" {row.response}"]
    if style == "cloze":
        stem = row.task in TASKS and TASKS[row.task].stem and not passage
        prompt = row.question if stem else f"{passage}Question: {row.question}\nAnswer:"
        return prompt, [f" {choice}" for choice in row.choices]
    if style == "list":
        listed = "\n".join(f"- {choice}" for choice in row.choices)
        return f"{passage}Question: {row.question}\n{listed}\nAnswer:", [f" {choice}" for choice in row.choices]
    return f"{passage}Question: {row.question}\n{_lettered(row)}\nAnswer:", [f" {letter}" for letter in _letters(row)]


def _letters(row: Row) -> str:
    return ascii_uppercase[: len(row.choices)]


def _lettered(row: Row) -> str:
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(_letters(row), row.choices, strict=True))


def earlier_turns(row: AnyRow) -> list[tuple[str, str]]:
    """The turns before a reply's question in the plain form: the text before each answer, and the answer."""
    if not isinstance(row, Reply) or not row.history:
        return []
    system = f"{row.system}\n\n" if row.system else ""
    return [
        (f"{'' if position else system}{TURN_SEPARATOR if position else ''}Question: {question}\nAnswer:", f" {answer}")
        for position, (question, answer) in enumerate(row.history)
    ]


def conversation(row: AnyRow, examples: Sequence[AnyRow]) -> Conversation:
    """A row as the messages of a chat, after solved examples; an answer to a question of choice is its letter."""
    passage = f"{row.context}\n\n" if row.context else ""
    system, turns, answers = "", [], [""]
    question = f"{passage}{row.question}"
    for example in examples:
        solved = conversation(example, ())
        turns.append((solved.question, solved.answers[right_option(example)[0]]))
    if isinstance(row, Reply):
        system, answers = row.system, [row.response]
        turns += row.history
    elif isinstance(row, Solution):
        answers = [solution_text(row)]
    else:
        question, answers = f"{question}\n{_lettered(row)}", list(_letters(row))
    return Conversation(f"{row.task} {row.id}", system, turns, question, answers)


def is_plain_text(row: AnyRow) -> bool:
    """Whether a row is a text to learn as a whole, without a question."""
    return isinstance(row, Reply) and not (row.question or row.history or row.system or row.context)


def solution_text(row: Solution) -> str:
    """The solution as it is learned: its steps, and a last line `#### ` with the final number."""
    line = final_line(row.answer)
    # No calculator runs in training or scoring, and its marks repeat each sum: without them the published solutions
    # have a quarter fewer tokens.
    steps = CALCULATOR_MARK.sub("", row.answer[: line.start() if line else None]).rstrip()
    # A number alone behind the mark ends an answer, so that no step may look like it.
    steps = MARKED_LINE.sub(lambda line: line[1] if value(line[1]) is not None else line[0], steps)
    return f"{steps}\n#### {row.final}" if steps else f"#### {row.final}"


def right_option(row: AnyRow) -> list[int]:
    """The index of the option that is the answer."""
    return [row.answer] if isinstance(row, Row) else [0]


class PromptEncoder:
    """Encodes rows in one prompt format.

    Attributes:
        template: the chat template of prompt format `chat`; None: the plain form.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        style: str,
        tasks: Mapping[str, Task] = TASKS,
        examples: Mapping[str, Sequence[AnyRow]] = MappingProxyType({}),
        all_turns: bool = True,
        context_length: int | None = None,
    ) -> None:
        """Find out whether the tokenizer adds a BOS token.

        Args:
            tokenizer: of the base model.
            style: letter, list, cloze or chat.
            tasks: the tasks of the rows, with their cutoffs.
            examples: by subject, the solved examples before a question.
            all_turns: all answers of a conversation are trained on; False: the last one.
            context_length: the most tokens that the model reads; None: any number.
        """
        self.tokenizer = tokenizer
        self.style = style
        self.tasks = tasks
        self.examples = examples
        self._task_numbers = {name: number for number, name in enumerate(tasks)}
        self.all_turns = all_turns
        self.context_length = context_length
        self.literal = LiteralText(tokenizer)
        self.template = ChatTemplate(tokenizer, self.literal) if style == "chat" and tokenizer.chat_template else None
        first = tokenizer("a").input_ids[0]
        self.bos = [first] if tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id else []

    def in_template(self, row: AnyRow) -> bool:
        """Whether a row is put in a chat template, which writes its own BOS token."""
        return self.template is not None and not is_plain_text(row)

    def ends_with_eos(self, row: AnyRow) -> bool:
        """Whether a trained answer is followed by the end-of-text token, rather than by what its template puts."""
        return self.template is None or self.template.end_of_turn is None or is_plain_text(row)

    def limit(self, task: str, training: bool) -> int:
        """The most tokens of a row of a task, without the end-of-text token of a train row."""
        cutoff = self.tasks[task].cutoff
        return cutoff if self.context_length is None else min(cutoff, self.context_length - training)

    def limit_key(self, task: str) -> str:
        """What decides that limit: the key, or the model."""
        cutoff = self.tasks[task].cutoff
        fits = self.context_length is None or cutoff < self.context_length
        return "data.cutoff" if fits else f"the model reads {self.context_length:,}"

    def encode(self, rows: Sequence[AnyRow], keep: Keep | None = None) -> list[Encoded]:
        """Encode questions; see `encode_chunk`."""
        return self.encode_chunk(rows, keep)

    def encode_chunk(self, rows: Sequence[AnyRow], keep: Keep | None = None, training: bool = False) -> list[Encoded]:
        """Encode the options of each row that `keep` names (default: all), and shorten rows that exceed the cutoff.

        Args:
            rows: the rows.
            keep: the options to encode.
            training: the options end as they are learned, and the prompt of a reply leaves room for its response.

        Raises:
            UserError: the chat template refuses a row.
        """
        shots = [len(self.examples.get(subject_of(row.id), ())) if self.examples else 0 for row in rows]
        texts = [self._text(row, keep, count, training) for row, count in zip(rows, shots, strict=True)]
        encoded = [
            replace(question, shots=count) if count else question
            for question, count in zip(self._tokenize(rows, texts), shots, strict=True)
        ]
        return [
            self._shorten(question, keep, training)
            if question.length > self.limit(question.row.task, training)
            else question
            for question in encoded
        ]

    def table(self, rows: Sequence[AnyRow], encode: EncodeChunk, name: object) -> TokenTable:
        """The rows in a table, encoded chunk by chunk; `name` says what `encode` makes of them."""
        del name
        return TokenTable(list(self.batches(rows, encode)))

    def batches(self, rows: Sequence[AnyRow], encode: EncodeChunk) -> Iterator["RecordBatch"]:
        """The encoded chunks of rows, one after the other."""
        return map(encode, Chunks(rows))

    def task_number(self, row: AnyRow) -> int:
        """The position of a row's task among the encoder's tasks."""
        return self._task_numbers[row.task]

    def _text(self, row: AnyRow, keep: Keep | None, shots: int, training: bool) -> PromptText:
        """The text of a row after its solved examples, with the options to encode."""
        examples = self.examples.get(subject_of(row.id), ())[:shots] if shots else ()
        if self.template and self.in_template(row):
            asked = conversation(row, examples)
            answers = asked.answers if keep is None else [asked.answers[i] for i in keep(row)]
            return self.template.text(replace(asked, answers=answers), training, self.all_turns)
        style = "letter" if self.style == "chat" else self.style
        prompt, options = render(row, style)
        solved = ""
        for example in examples:
            question, answers = render(example, style)
            solved += f"{question}{answers[right_option(example)[0]]}\n\n"
        if self.template:
            options = [self.literal.mark(option) for option in options]
        earlier = earlier_turns(row)
        before = TURN_SEPARATOR if earlier else solved
        return PromptText(earlier, before + prompt, options if keep is None else [options[i] for i in keep(row)])

    def _tokenize(self, rows: Sequence[AnyRow], texts: Sequence[PromptText]) -> list[Encoded]:
        """The tokens of texts, in one call of the tokenizer."""
        separate = [
            all(starmap(self.literal.splits_between, self._borders(row, text)))
            for row, text in zip(rows, texts, strict=True)
        ]
        parts = [
            self._parts(row, text, joined=not alone) for row, text, alone in zip(rows, texts, separate, strict=True)
        ]
        tokens = iter(self._tokens([part for one in parts for part in one]))
        return [
            self._assemble(row, text, [next(tokens) for _ in one], alone)
            for row, text, one, alone in zip(rows, texts, parts, separate, strict=True)
        ]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self.literal.rendered_tokens(texts) if self.template else self.literal.tokens(texts)

    def _borders(self, row: AnyRow, text: PromptText) -> Iterator[tuple[str, str]]:
        """What stands before and after each border between prompt and answer."""
        yield from text.earlier
        if not self.ends_with_eos(row):
            starts = [*(before for before, _ in text.earlier[1:]), text.prompt]
            yield from zip((answer for _, answer in text.earlier), starts, strict=False)
        for option in text.options:
            yield text.prompt, option

    def _parts(self, row: AnyRow, text: PromptText, joined: bool) -> list[str]:
        """The texts between those borders; joined, each with all before it since the last end-of-text token."""
        parts = []
        start = ""
        for before, answer in text.earlier:
            parts += [start + before, start + before + answer if joined else answer]
            start = parts[-1] if joined and not self.ends_with_eos(row) else ""
        prompt = start + text.prompt
        return [*parts, prompt, *(prompt + option if joined else option for option in text.options)]

    def _assemble(self, row: AnyRow, text: PromptText, parts: list[list[int]], separate: bool) -> Encoded:
        """Put the tokens of a row together, so that what is asked begins what is trained.

        Text is tokenized as one; where that would change the tokens before an answer, the answer is tokenized alone.

        Args:
            row: the row.
            text: its text.
            parts: the tokens of `_parts`.
            separate: whether they are not joined.
        """
        done = [] if self.in_template(row) else [*self.bos]
        if isinstance(row, Row) and not self.template and not separate:
            return _split_prompt(row, done, parts[0], parts[1:])
        spans: list[tuple[int, int]] = []
        remaining = iter(parts)
        segment = Segment(self._tokens, separate)
        for before, answer in text.earlier:
            segment.append(before, next(remaining))
            start = len(done) + len(segment.tokens)
            segment.append(answer, next(remaining))
            if self.ends_with_eos(row):
                done += [*segment.tokens, self.tokenizer.eos_token_id]
                segment = Segment(self._tokens, separate)
            spans.append((start, len(done) + len(segment.tokens)))
        segment.append(text.prompt, next(remaining))
        options = [segment.after(option, tokens) for option, tokens in zip(text.options, remaining, strict=True)]
        return Encoded(row, done + segment.tokens, options, earlier=tuple(spans))

    def _shorten(self, question: Encoded, keep: Keep | None, training: bool) -> Encoded:
        """Drop examples, then the earliest turns, then truncate the passage; question and options stay whole.

        The response of a reply can be truncated in training. So its prompt makes room for it only down to
        `REPLY_PROMPT_SHARE` of the cutoff: a model that is asked with a passage learns to answer with it.
        """
        whole, row = question, question.row
        limit = self.limit(row.task, training)
        shots = question.shots
        least = int(limit * REPLY_PROMPT_SHARE) if training and isinstance(row, Reply) else 0

        def excess() -> int:
            return min(question.length - limit, len(question.prompt) - least) if least else question.length - limit

        def encode_again() -> Encoded:
            return self._tokenize([row], [self._text(row, keep, shots, training)])[0]

        while excess() > 0 and shots:
            shots -= 1
            question = encode_again()
        while excess() > 0 and isinstance(row, Reply) and row.history:
            row = replace(row, history=row.history[1:])
            question = encode_again()
        (passage,) = self.literal.tokens([row.context]) if row.context else ([],)
        while excess() > 0 and passage:
            passage = passage[: -excess()]
            # A replacement character at the end is half a character.
            row = replace(row, context=str(self.tokenizer.decode(passage)).rstrip("\ufffd"))
            question = encode_again()
        return replace(
            question, row=whole.row, shots=shots, cut=row is not whole.row, untruncated=whole.length + training
        )


def _split_prompt(row: AnyRow, bos: list[int], prompt: list[int], texts: list[list[int]]) -> Encoded:
    """Split the tokens of prompt and option, tokenized as one text, after those that all options share with the prompt.

    A merge across the border changes the prompt's last token: it then belongs to the options.
    """
    shared = len(prompt)
    for text in texts:
        first_difference = next(
            (i for i, (a, b) in enumerate(zip(prompt, text, strict=False)) if a != b), len(text) - 1
        )
        shared = min(shared, first_difference)
    return Encoded(row, bos + prompt[:shared], [text[shared:] for text in texts])
