"""How a question is put to the model, and the tokens of the prompt and of each option.

letter  lettered options in the prompt, one letter answered
list    options listed in the prompt, the answer is the option's text
cloze   no options in the prompt, the answer is the option's text (as lm-evaluation-harness scores ARC)

A question without options is put in one way, whatever the format: its answer is the worked solution.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

from mosld.data.numbers import FINAL
from mosld.data.rows import AnyRow, Solution
from mosld.data.tasks import TASKS

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
    """

    row: AnyRow
    prompt: list[int]
    options: list[list[int]]
    cut: bool = False

    @property
    def length(self) -> int:
        """Tokens of the prompt and its longest option."""
        return len(self.prompt) + max(map(len, self.options), default=0)


def render(row: AnyRow, style: str) -> tuple[str, list[str]]:
    """The prompt and the continuations of a row, as text; each continuation begins with a space."""
    passage = f"{row.context}\n\n" if row.context else ""
    if isinstance(row, Solution):
        return f"{passage}Question: {row.question}\nAnswer:", [f" {worked(row)}"]
    if style == "cloze":
        stem = TASKS[row.task].stem and not passage
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
    return [0] if isinstance(row, Solution) else [row.answer]


class PromptEncoder:
    """Turns rows into tokens, one prompt format for all."""

    def __init__(self, tokenizer: Tokenizer, style: str) -> None:
        """Keep the tokenizer and learn whether it opens a text with its BOS token."""
        self.tokenizer, self.style = tokenizer, style
        opening = tokenizer("a").input_ids[0]
        self.bos = [opening] if tokenizer.bos_token_id is not None and opening == tokenizer.bos_token_id else []

    def encode(self, rows: Sequence[AnyRow], keep: Keep | None = None) -> list[Encoded]:
        """Tokens of each row; `keep` names the indices of the options that are wanted (default: all)."""
        texts = [self._texts(row, keep) for row in rows]
        flat = [text for prompt, options in texts for text in (prompt, *(prompt + option for option in options))]
        tokens = iter(self.tokenizer(flat, add_special_tokens=False).input_ids if flat else [])
        encoded = []
        for row, (_, options) in zip(rows, texts, strict=True):
            found = _join(row, self.bos, next(tokens), [next(tokens) for _ in options])
            cutoff = TASKS[row.task].cutoff
            encoded.append(self._shorten(row, keep, found, cutoff) if found.length > cutoff else found)
        return encoded

    def _texts(self, row: AnyRow, keep: Keep | None) -> tuple[str, list[str]]:
        prompt, options = render(row, self.style)
        return prompt, options if keep is None else [options[i] for i in keep(row)]

    def _shorten(self, row: AnyRow, keep: Keep | None, found: Encoded, cutoff: int) -> Encoded:
        """Cut the passage, never the question or the options; a row without a passage stays as it is."""
        passage = self.tokenizer(row.context, add_special_tokens=False).input_ids
        while found.length > cutoff and passage:
            passage = passage[: -(found.length - cutoff)]
            text = self.tokenizer.decode(passage).rstrip("\ufffd")  # half a character
            prompt, options = self._texts(replace(row, context=text), keep)
            tokens = self.tokenizer([prompt, *(prompt + o for o in options)], add_special_tokens=False).input_ids
            joined = _join(row, self.bos, tokens[0], tokens[1:])
            found = Encoded(row, joined.prompt, joined.options, cut=True)
        return found


def _join(row: AnyRow, bos: list[int], prompt: list[int], wholes: list[list[int]]) -> Encoded:
    """Split prompt+option, tokenised as one text, at the end of what all options share with the prompt."""
    shared = len(prompt)
    for whole in wholes:
        differs = (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b)
        shared = min(shared, next(differs, len(whole) - 1))
    return Encoded(row, bos + prompt[:shared], [whole[shared:] for whole in wholes])
