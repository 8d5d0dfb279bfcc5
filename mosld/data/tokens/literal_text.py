"""Text as tokens, in which a special token that a user wrote out stays text.

Only a template may write special tokens. In a text that it renders, those of the user are marked, and the mark is taken
out again once the template's own are found.
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

from tokenizers.normalizers import NFC

from mosld.common.machine import foreign_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Noncharacters, which Unicode reserves for use within a program.
MARK = "\ufdd0\ufdd1"
# More than any tokenizer's regular expression looks back.
BORDER_CHARACTERS = 8
MAX_BORDERS = 100_000


class LiteralText:
    """Tokenizes text literally.

    Attributes:
        special: matches the special tokens of the tokenizer.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Collect the tokenizer's special tokens."""
        self.tokenizer = tokenizer
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        longest_first = sorted({*added, *tokenizer.all_special_tokens} - {""}, key=lambda token: (-len(token), token))
        # Without special tokens: what nothing matches.
        self.special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._splits: dict[tuple[str, str], bool] = {}

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts that hold no special token, whatever they spell."""
        return self._tokens(texts, literal=True)

    def _tokens(self, texts: Sequence[str], literal: bool) -> list[list[int]]:
        if not texts:
            return []
        with foreign_code(lambda error: f"the tokenizer of this model fails on a row: {error}"):
            if self._backend is None:
                encoded: list[list[int]] = self.tokenizer(
                    list(texts), add_special_tokens=False, split_special_tokens=literal
                ).input_ids
                return encoded
            # What the tokenizer does in this call, in half the time.
            self._backend.no_truncation()
            self._backend.no_padding()
            self._backend.encode_special_tokens = literal
            return [one.ids for one in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def splits_between(self, before: str, after: str) -> bool:
        """Whether text is split into words at this border, so that the tokens of both parts are those of the whole.

        Byte-level tokenizers split by a regular expression that looks at a few characters. Of others it is not known.
        """
        border = before[-BORDER_CHARACTERS:], after[:2]
        if border not in self._splits:
            words = self._words
            if len(self._splits) >= MAX_BORDERS:
                self._splits.clear()
            self._splits[border] = not before or (
                words is not None and words("".join(border)) == words(border[0]) + words(border[1])
            )
        return self._splits[border]

    @cached_property
    def _words(self) -> Callable[[str], list[str]] | None:
        """Splits a text as a byte-level tokenizer does; None for other tokenizers."""
        splitter = getattr(self._backend, "pre_tokenizer", None)
        normalizer = getattr(self._backend, "normalizer", None)
        known = "ByteLevel(add_prefix_space=False" in repr(splitter) and "Metaspace" not in repr(splitter)
        if splitter is None or not known or not (normalizer is None or isinstance(normalizer, NFC)):
            return None
        return lambda text: [word for word, _ in splitter.pre_tokenize_str(text)]

    def mark(self, text: str) -> str:
        """Mark the special tokens that a text spells, before a template puts its own beside them."""
        return self.special.sub(lambda token: token[0][0] + MARK + token[0][1:], text)

    def rendered_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts that a template rendered, with its special tokens but no marked one."""
        plain = [text for text in texts if MARK not in text]
        encoded = iter(self._tokens(plain, literal=False))
        return [self._marked_tokens(text) if MARK in text else next(encoded) for text in texts]

    def _marked_tokens(self, text: str) -> list[int]:
        tokens: list[int] = []
        start = 0
        for special in self.special.finditer(text):
            tokens += self._piece(text[start : special.start()])
            tokens.append(cast("int", self.tokenizer.convert_tokens_to_ids(special[0])))
            start = special.end()
        return tokens + self._piece(text[start:])

    def _piece(self, text: str) -> list[int]:
        return self.tokens([text.replace(MARK, "")])[0] if text else []


class Segment:
    """Text between two end-of-text tokens, of which each part begins with all tokens of the parts before it.

    Attributes:
        tokens: of the parts so far.
    """

    def __init__(self, tokenize: Callable[[Sequence[str]], list[list[int]]], separate: bool) -> None:
        """`separate`: parts come with their own tokens, not with those of the text up to their end."""
        self.tokens: list[int] = []
        self._tokenize = tokenize
        self._separate = separate
        self._joint = True

    def append(self, part: str, part_tokens: list[int]) -> None:
        """Add a part with its tokens."""
        tokens = self.tokens + self.after(part, part_tokens)
        # From where the tokens differ, every part is tokenized alone.
        self._joint = self._joint and tokens == part_tokens
        self.tokens = tokens

    def after(self, part: str, part_tokens: list[int]) -> list[int]:
        """The tokens that a part would add."""
        if self._separate:
            return part_tokens
        if self._joint and part_tokens[: len(self.tokens)] == self.tokens:
            return part_tokens[len(self.tokens) :]
        return self._tokenize([part])[0]
