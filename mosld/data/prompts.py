"""How a question is put to the model, and the tokens of the prompt and of each option.

letter  lettered options in the prompt, one letter answered
list    options listed in the prompt, the answer is the option's text
cloze   no options in the prompt, the answer is the option's text (as lm-evaluation-harness scores ARC)

A question without options is put in one way, whatever the format: its answer is the worked solution or the response.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from types import MappingProxyType
from typing import Any

from mosld.data.parsing import FINAL
from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.data.subjects import subject_of
from mosld.data.tasks import TASKS, Task

Tokenizer = Any  # a transformers tokenizer: the model stage makes it, this module never imports it
Keep = Callable[[AnyRow], Sequence[int]]  # the indices of the continuations of a row that are wanted
CALCULATOR_MARK = re.compile("<<[^<>]*>>")


@dataclass(frozen=True, slots=True)
class Encoded:
    """One question as tokens.

    Attributes:
        row: the question.
        prompt: tokens that all options share.
        options: the tokens of each option after the shared ones; none where the answer is to be generated.
        cut: whether the passage was shortened to fit the task's cutoff.
        shots: worked examples that stand before the question.
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
    """The prompt and the continuations of a row, as text; each continuation begins with a space."""
    passage = f"{row.context}\n\n" if row.context else ""
    if isinstance(row, Solution):
        return f"{passage}Question: {row.question}\nAnswer:", [f" {worked(row)}"]
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


def worked(row: Solution) -> str:
    """The solution as it is trained: its steps, and `#### ` with the final number as the last line."""
    end = max((found.start() for found in FINAL.finditer(row.answer)), default=len(row.answer))
    # `<<48/2=24>>` is for a calculator that fills in the result. There is none in training or scoring, where the
    # marks would say each sum twice: without them the published solutions have a quarter fewer tokens.
    steps = CALCULATOR_MARK.sub("", row.answer[:end]).rstrip()
    return f"{steps}\n#### {row.final}" if steps else f"#### {row.final}"


def right_option(row: AnyRow) -> list[int]:
    """The index of the continuation that is the answer."""
    return [row.answer] if isinstance(row, Row) else [0]


class PromptEncoder:
    """Turns rows into tokens, one prompt format for all."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        style: str,
        tasks: Mapping[str, Task] = TASKS,
        examples: Mapping[str, Sequence[AnyRow]] = MappingProxyType({}),
    ) -> None:
        """Keep the tokenizer and learn whether it opens a text with its BOS token.

        `tasks` say how a row of each is put; `examples` are, by subject, the rows that stand solved before a question.
        """
        self.tokenizer, self.style, self.tasks, self.examples = tokenizer, style, tasks, examples
        opening = tokenizer("a").input_ids[0]
        self.bos = [opening] if tokenizer.bos_token_id is not None and opening == tokenizer.bos_token_id else []

    def encode(self, rows: Sequence[AnyRow], keep: Keep | None = None) -> list[Encoded]:
        """Tokens of each row; `keep` names the indices of the options that are wanted (default: all)."""
        shots = [len(self.examples.get(subject_of(row.id), ())) for row in rows]
        texts = [self._texts(row, keep, count) for row, count in zip(rows, shots, strict=True)]
        flat = [text for prompt, options in texts for text in (prompt, *(prompt + option for option in options))]
        tokens = iter(self.tokenizer(flat, add_special_tokens=False).input_ids if flat else [])
        encoded = []
        for row, count, (_, options) in zip(rows, shots, texts, strict=True):
            found = replace(_join(row, self.bos, next(tokens), [next(tokens) for _ in options]), shots=count)
            encoded.append(self._shorten(found, keep) if found.length > self.tasks[row.task].cutoff else found)
        return encoded

    def _texts(self, row: AnyRow, keep: Keep | None, shots: int) -> tuple[str, list[str]]:
        prompt, options = render(row, self.style)
        solved = "".join(self._solved(example) for example in self.examples.get(subject_of(row.id), ())[:shots])
        return solved + prompt, options if keep is None else [options[i] for i in keep(row)]

    def _solved(self, row: AnyRow) -> str:
        prompt, options = render(row, self.style)
        return f"{prompt}{options[right_option(row)[0]]}\n\n"

    def _shorten(self, found: Encoded, keep: Keep | None) -> Encoded:
        """Take fewer examples, then cut the passage, never the question or the options; else it stays as it is."""
        row, cutoff = found.row, self.tasks[found.row.task].cutoff
        while found.length > cutoff and found.shots:
            found = self._again(row, row, keep, found.shots - 1)
        passage = self.tokenizer(row.context, add_special_tokens=False).input_ids
        while found.length > cutoff and passage:
            passage = passage[: -(found.length - cutoff)]
            text = self.tokenizer.decode(passage).rstrip("\ufffd")  # half a character
            found = replace(self._again(row, replace(row, context=text), keep, 0), cut=True)
        return found

    def _again(self, row: AnyRow, shorter: AnyRow, keep: Keep | None, shots: int) -> Encoded:
        prompt, options = self._texts(shorter, keep, shots)
        tokens = self.tokenizer([prompt, *(prompt + o for o in options)], add_special_tokens=False).input_ids
        return replace(_join(row, self.bos, tokens[0], tokens[1:]), shots=shots)


def _join(row: AnyRow, bos: list[int], prompt: list[int], wholes: list[list[int]]) -> Encoded:
    """Split prompt+option, tokenised as one text, at the end of what all options share with the prompt."""
    shared = len(prompt)
    for whole in wholes:
        differs = (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b)
        shared = min(shared, next(differs, len(whole) - 1))
    return Encoded(row, bos + prompt[:shared], [whole[shared:] for whole in wholes])
