"""From a typed question to a streamed answer.

Shapes: B is 1, S tokens.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PreTrainedTokenizerBase, TextStreamer

from mosld.adapters.load import Model
from mosld.common.errors import UserError
from mosld.common.terminal import visible
from mosld.data.rows import AnyRow, Reply, Row
from mosld.data.tasks import Task
from mosld.data.tokens.prompts import Encoded, PromptEncoder
from mosld.evaluation.forward import context_length
from mosld.evaluation.generation import decode, end_tokens

# The prompt formats that show the options.
PROMPTS_WITH_OPTIONS = ("letter", "list")
# What the user wrote and the model answered.
Turns = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """What was asked and answered, as tokens.

    Attributes:
        tokens: the answer, without the token that ends it.
        stopped: whether Ctrl-C cut it short.
        forgotten: whether the earliest turns were left out of the prompt, which would not fit the model.
    """

    prompt: list[int]
    tokens: list[int]
    text: str
    stopped: bool = False
    forgotten: bool = False


class Streamer(TextStreamer):
    """Transformers' own streamer, which also keeps the tokens, so that a stopped answer is not lost.

    Spaces before the first word are left out, and characters that would steer a terminal are shown as escapes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, verbatim: bool, controls: bool) -> None:
        """`verbatim` keeps the first spaces, `controls` the control characters."""
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.tokens: list[int] = []
        self.started, self.controls = verbatim, controls

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate`: first with the prompt, then with each token."""
        if not self.next_tokens_are_prompt:
            self.tokens += value.flatten().tolist()
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print what can no longer change."""
        text = text if self.started else text.lstrip()
        self.started = self.started or bool(text)
        super().on_finalized_text(text if self.controls else visible(text), stream_end)


@dataclass(frozen=True)
class Answerer:
    """A model that answers questions, one at a time; in a chat it reads the turns before.

    Attributes:
        model: the trained model, in eval mode.
        style: the prompt format of the run.
        form: how a question is put: question, plain or chat (see ``python -m mosld.chat --help``).
        temperature: of sampling; 0: none.
        system: a system prompt, or "".
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase
    style: str
    form: str = "question"
    max_new_tokens: int = 128
    temperature: float = 0.0
    system: str = ""

    def __post_init__(self) -> None:
        """Refuse a chat without a template."""
        if self.form == "chat" and not self.tokenizer.chat_template:
            raise UserError("--format chat: the tokenizer of this model has no chat template.")

    @property
    def converses(self) -> bool:
        """Whether questions are the turns of a conversation."""
        return self.form == "chat" or (self.form == "question" and self.style == "chat")

    @property
    def _context_length(self) -> int | None:
        return context_length(self.model)

    @cached_property
    def _encoder(self) -> PromptEncoder:
        """Puts questions as the rows of training are put; the earliest turns that do not fit the model are dropped."""
        task = Task("chat", "a chat", cutoff=sys.maxsize, kind="reply")
        style = "chat" if self.form == "chat" else self.style
        return PromptEncoder(self.tokenizer, style, {"chat": task}, context_length=self._context_length)

    def encode(self, text: str, history: Turns = ()) -> Encoded:
        """The prompt that puts `text` to the model after a system prompt and earlier turns."""
        # Half a surrogate pair is not a character.
        text = text.encode("utf-8", "replace").decode()
        if self.form == "plain":
            if self.system:
                raise UserError("--format plain takes the text as it is, without a system prompt (--system, /system).")
            (tokens,) = self._encoder.literal.tokens([text])
            return Encoded(Reply("chat", "chat", "", text, ""), self._encoder.bos + tokens, [])
        return self._encoder.encode([self._row(text, history)], keep=lambda _: ())[0]

    def answer(self, text: str, controls: bool = True, history: Turns = ()) -> Answer:
        """Print the answer token by token; `controls` as in `Streamer`.

        Raises:
            UserError: the prompt is longer than the model can read, or takes no system prompt.
        """
        question = self.encode(text, history)
        prompt = question.prompt
        streamer = Streamer(self.tokenizer, self.form == "plain", controls)
        stopped = False
        try:
            self.generate(prompt, streamer)
        except KeyboardInterrupt:
            streamer.end()
            stopped = True
        return Answer(prompt, *self.read(streamer.tokens), stopped, question.cut)

    def read(self, generated: Sequence[int]) -> tuple[list[int], str]:
        """The generated tokens without those that end an answer, and their text."""
        ends = set(end_tokens(self.model, self.tokenizer))
        tokens = [token for token in generated if token not in ends]
        return tokens, decode(self.tokenizer, [tokens])[0].strip()

    @torch.inference_mode()
    def generate(self, prompt: list[int], streamer: Streamer | None = None) -> list[int]:
        """The tokens that follow a prompt; `streamer` gets each when it is known.

        Raises:
            UserError: the prompt is longer than the model can read.
        """
        context_length = self._context_length
        if context_length is not None and len(prompt) >= context_length:
            raise UserError(f"the prompt has {len(prompt)} tokens, this model reads {context_length - 1} at most.")
        ids_BS = torch.tensor([prompt], device=self.model.device)
        max_new_tokens = self.max_new_tokens
        if context_length:
            max_new_tokens = min(max_new_tokens, context_length - len(prompt))
        sampling = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        output_BS = self.model.generate(  # type: ignore[operator]
            input_ids=ids_BS,
            attention_mask=torch.ones_like(ids_BS),
            max_new_tokens=max_new_tokens,
            eos_token_id=end_tokens(self.model, self.tokenizer),
            pad_token_id=self.tokenizer.pad_token_id,
            streamer=streamer,
            **sampling,
        )
        return output_BS[0, len(prompt) :].tolist()

    def _row(self, text: str, history: Turns) -> AnyRow:
        question, *choices = [part.strip() for part in text.strip().split(" | ")]
        if self.form == "question" and self.style in PROMPTS_WITH_OPTIONS and len(choices) >= 2:
            if self.system:
                raise UserError("a question with options takes no system prompt (--system, /system).")
            return Row("chat", "chat", "", question, tuple(choices), 0)
        return Reply("chat", "chat", "", text.strip(), "", self.system, tuple(history))
