"""The prompt formats, and the tokens of prompt and options.

letter  lettered options in the prompt; the answer is one letter
list    options listed in the prompt; the answer is the option's text
cloze   no options in the prompt; the answer is the option's text (as lm-evaluation-harness scores ARC)

A question without options has one format: its answer is the worked solution or the response.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from types import MappingProxyType
from typing import TYPE_CHECKING

from mosld.data.numbers import FINAL
from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.data.subjects import subject_of
from mosld.data.tasks import TASKS, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The indices of the options of a row to encode.
Keep = Callable[[AnyRow], Sequence[int]]
# `<<48/2=24>>` in a published solution, for a calculator that fills in the result.
CALCULATOR_MARK = re.compile("<<[^<>]*>>")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A question as tokens.

    Attributes:
        row: the question.
        prompt: tokens that all options share.
        options: the tokens of each option after the shared ones; none where the answer is generated.
        cut: whether the passage was truncated to fit the task's cutoff.
        shots: solved examples before the question.
    """

    row: AnyRow
    prompt: list[int]
    options: list[list[int]]
    cut: bool = False
    shots: int = 0

    @property
    def length(self) -> int:
        """Tokens of the prompt and its longest option."""
        return len(self.prompt) + max(map(len, self.options), default=0)


def render(row: AnyRow, style: str) -> tuple[str, list[str]]:
    """The prompt and the options of a row as text; each option begins with a space."""
    passage = f"{row.context}\n\n" if row.context else ""
    if isinstance(row, Solution):
        return f"{passage}Question: {row.question}\nAnswer:", [f" {solution_text(row)}"]
    if isinstance(row, Reply):
        system = f"{row.system}\n\n" if row.system else ""
        return f"{system}{passage}Question: {row.question}\nAnswer:", [f" {row.response}"]
    if style == "cloze":
        stem = row.task in TASKS and TASKS[row.task].stem and not passage
        prompt = row.question if stem else f"{passage}Question: {row.question}\nAnswer:"
        return prompt, [f" {choice}" for choice in row.choices]
    if style == "list":
        listed = "\n".join(f"- {choice}" for choice in row.choices)
        return f"{passage}Question: {row.question}\n{listed}\nAnswer:", [f" {choice}" for choice in row.choices]
    letters = ascii_uppercase[: len(row.choices)]
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, row.choices, strict=True))
    return f"{passage}Question: {row.question}\n{listed}\nAnswer:", [f" {letter}" for letter in letters]


def solution_text(row: Solution) -> str:
    """The solution as it is learned: its steps, and a last line `#### ` with the final number."""
    end = max((line.start() for line in FINAL.finditer(row.answer)), default=len(row.answer))
    # No calculator runs in training or scoring, and its marks repeat each sum: without them the published solutions
    # have a quarter fewer tokens.
    steps = CALCULATOR_MARK.sub("", row.answer[:end]).rstrip()
    return f"{steps}\n#### {row.final}" if steps else f"#### {row.final}"


def right_option(row: AnyRow) -> list[int]:
    """The index of the option that is the answer."""
    return [row.answer] if isinstance(row, Row) else [0]


class PromptEncoder:
    """Encodes rows in one prompt format."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        style: str,
        tasks: Mapping[str, Task] = TASKS,
        examples: Mapping[str, Sequence[AnyRow]] = MappingProxyType({}),
    ) -> None:
        """Find out whether the tokenizer adds a BOS token.

        Args:
            tokenizer: of the base model.
            style: letter, list or cloze.
            tasks: the tasks of the rows, with their cutoffs.
            examples: by subject, the solved examples before a question.
        """
        self.tokenizer = tokenizer
        self.style = style
        self.tasks = tasks
        self.examples = examples
        first = tokenizer("a").input_ids[0]
        self.bos = [first] if tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id else []

    def encode(self, rows: Sequence[AnyRow], keep: Keep | None = None) -> list[Encoded]:
        """Encode the options of each row that `keep` names (default: all), and shorten rows that exceed the cutoff."""
        shots = [len(self.examples.get(subject_of(row.id), ())) for row in rows]
        texts = [self._texts(row, keep, count) for row, count in zip(rows, shots, strict=True)]
        encoded = [
            replace(question, shots=count) for question, count in zip(self._tokenize(rows, texts), shots, strict=True)
        ]
        return [
            self._shorten(question, keep) if question.length > self.tasks[question.row.task].cutoff else question
            for question in encoded
        ]

    def _texts(self, row: AnyRow, keep: Keep | None, shots: int) -> tuple[str, list[str]]:
        """The prompt, after its solved examples, and the options to encode."""
        prompt, options = render(row, self.style)
        solved = ""
        for example in self.examples.get(subject_of(row.id), ())[:shots]:
            question, answers = render(example, self.style)
            solved += f"{question}{answers[right_option(example)[0]]}\n\n"
        return solved + prompt, options if keep is None else [options[i] for i in keep(row)]

    def _tokenize(self, rows: Sequence[AnyRow], texts: Sequence[tuple[str, list[str]]]) -> list[Encoded]:
        flat = [text for prompt, options in texts for text in (prompt, *(prompt + option for option in options))]
        tokens = iter(self.tokenizer(flat, add_special_tokens=False).input_ids if flat else [])
        return [
            _split_prompt(row, self.bos, next(tokens), [next(tokens) for _ in options])
            for row, (_, options) in zip(rows, texts, strict=True)
        ]

    def _shorten(self, question: Encoded, keep: Keep | None) -> Encoded:
        """Drop examples, then truncate the passage; question and options stay whole, even beyond the cutoff."""
        row = question.row
        cutoff = self.tasks[row.task].cutoff
        shots = question.shots
        while question.length > cutoff and shots:
            shots -= 1
            (question,) = self._tokenize([row], [self._texts(row, keep, shots)])
        passage = self.tokenizer(row.context, add_special_tokens=False).input_ids
        cut = False
        while question.length > cutoff and passage:
            passage = passage[: -(question.length - cutoff)]
            # A replacement character at the end is half a character.
            context = str(self.tokenizer.decode(passage)).rstrip("\ufffd")
            (question,) = self._tokenize([row], [self._texts(replace(row, context=context), keep, 0)])
            cut = True
        return replace(question, shots=shots, cut=cut)


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
