"""Text as tokens, in which a special token that a user wrote out stays text.

Only a template may write special tokens. In a text that it renders, those of the user are marked, and the mark is taken
out again once the template's own are found.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Noncharacters, which Unicode reserves for use within a program.
MARK = "\ufdd0\ufdd1"


class LiteralText:
    """Tokenizes text literally.

    Attributes:
        special: matches the special tokens of the tokenizer.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Collect the tokenizer's special tokens."""
        self.tokenizer = tokenizer
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        longest_first = sorted({*added, *tokenizer.all_special_tokens}, key=lambda token: (-len(token), token))
        # Without special tokens: what nothing matches.
        self.special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts that hold no special token, whatever they spell."""
        if not texts:
            return []
        encoded: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, return_attention_mask=False
        ).input_ids
        return encoded

    def mark(self, text: str) -> str:
        """Mark the special tokens that a text spells, before a template puts its own beside them."""
        return self.special.sub(lambda token: token[0][0] + MARK + token[0][1:], text)

    def rendered_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts that a template rendered, with its special tokens but no marked one."""
        plain = [text for text in texts if MARK not in text]
        encoded = iter(
            self.tokenizer(plain, add_special_tokens=False, split_special_tokens=False).input_ids if plain else []
        )
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
