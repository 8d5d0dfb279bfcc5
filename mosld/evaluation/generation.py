"""Answers by greedy generation: solutions are compared by their final number, replies by their text.

Shapes: B questions, S longest prompt and the tokens generated so far.
"""

import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from mosld.adapters.load import Model
from mosld.data.numbers import final_number, value
from mosld.data.rows import AnyRow, Reply, Solution
from mosld.data.tokens.chat_template import end_of_turn
from mosld.data.tokens.prompts import Encoded
from mosld.distributed.fsdp import input_device
from mosld.distributed.processes import processes
from mosld.evaluation.correctness import flexible_match, same_number, same_text, strict_match
from mosld.evaluation.expert_use import ExpertUse, has_experts
from mosld.evaluation.forward import Progress, context_length, inputs_for, run_batches, scoring_mode, unwrapped
from mosld.evaluation.packing import batches, pack

# A base model was never shown where an answer ends, and goes on with a question of its own.
NEXT_QUESTION = re.compile(r"\nQuestion:")
# A whole line behind the mark of a final number; a heading may have that mark, too.
MARKED_LINE = re.compile(r"^####([^#\n]*)\n", re.MULTILINE)
# The end of an answer is searched for in this many last tokens; the line of a final number is shorter.
STOP_WINDOW_TOKENS = 32
# Greedy, whatever the model's generation config says.
GREEDY = {
    "do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "temperature": None, "top_p": None, "top_k": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ending:
    """Where the text of an answer ends if no end token does.

    Attributes:
        final_number: with a line that holds a final number and nothing else, as trained solutions do.
        next_question: where another question begins.
    """

    final_number: bool = False
    next_question: bool = False

    def find(self, text: str) -> int | None:
        """The position where the answer ends; None if it goes on."""
        if self.final_number:
            for line in MARKED_LINE.finditer(text):
                if value(line[1].strip()) is not None:
                    return line.end()
        question = NEXT_QUESTION.search(text) if self.next_question else None
        return question.start() if question else None

    def cut(self, text: str) -> str:
        """The answer alone."""
        return text[: self.find(text)]


@dataclass(frozen=True, slots=True)
class GeneratedPrediction:
    """The model's answer to one question: a line of `predictions/<task>.jsonl`.

    Attributes:
        prediction: of a solution the final number as the model wrote it, None where there is none; of a reply its
            text, or the first line of it where the expected response has one line.
        correct: whether the number has the expected value, or the reply equals the expected one (`same_text`).
    """

    id: str
    prediction: str | None
    correct: bool


@dataclass(frozen=True, slots=True)
class SolutionPrediction(GeneratedPrediction):
    """The answer to a question with a worked solution.

    Attributes:
        strict: whether the number is right by the filter strict-match of lm-evaluation-harness for gsm8k.
        flexible: whether it is by its filter flexible-extract.
    """

    strict: bool
    flexible: bool


def generate_answers(
    model: Model,
    questions: Sequence[Encoded],
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    batch_tokens: int,
    progress: Progress = iter,
    expert_use: ExpertUse | None = None,
    stop_at_question: bool = False,
    lead: str = "",
) -> list[GeneratedPrediction]:
    """Generate the answers to questions in eval mode.

    Args:
        model: a causal language model, with or without an adapter; its training mode is restored at the end.
        questions: prompts as tokens, without options.
        max_new_tokens: length at which an answer is cut off.
        batch_tokens: padded tokens of the prompts of a batch.
        progress: wraps the batches, for a progress bar.
        expert_use: counts the experts that the prompt and answer tokens of this process take.
        stop_at_question: an answer ends where another question begins: for a base model, whose prompts begin so.
        lead: what a chat template puts before every answer; it is no part of it.

    Returns:
        One prediction per question, in their order.
    """

    def answer(batch: list[Encoded], recorded: bool) -> list[str]:
        endings = [Ending(isinstance(question.row, Solution), stop_at_question) for question in batch]
        answers = generate(model, [question.prompt for question in batch], tokenizer, max_new_tokens, endings)
        if expert_use is not None and has_experts(model):
            # A batch that is run only to keep sharded processes in step is counted where nobody looks.
            counts = expert_use if recorded else ExpertUse()
            _record_experts(model, batch, answers, tokenizer.pad_token_id, batch_tokens, counts)
        texts = [ending.cut(text) for ending, text in zip(endings, decode(tokenizer, answers), strict=True)]
        return [text.lstrip().removeprefix(lead) for text in texts]

    with scoring_mode(model):
        # Each new token costs a forward pass: larger batches are worth any padding of their prompts.
        work = list(batches(questions, batch_tokens, max_padding=batch_tokens))
        texts = run_batches(work, answer, progress)
    return [_prediction(question.row, texts[id(question)]) for question in questions]


def generate(
    model: Model,
    prompts: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    endings: Sequence[Ending] = (),
) -> list[list[int]]:
    """The greedy continuation of each prompt up to the end of its answer.

    An answer ends before an end token, after `max_new_tokens`, where its text ends by `endings`, or with the last token
    that the model reads.
    """
    group = processes()
    device = input_device(model, group)
    pad_token_id = tokenizer.pad_token_id
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    ids = [[pad_token_id] * pads + prompt for pads, prompt in zip(padding, prompts, strict=True)]
    mask = [[0] * pads + [1] * len(prompt) for pads, prompt in zip(padding, prompts, strict=True)]
    end_ids = end_tokens(model, tokenizer)
    most = context_length(model)
    room = [max_new_tokens if most is None else most - len(prompt) for prompt in prompts]
    ends = AnswerEnds(tokenizer, longest, endings or [Ending()] * len(prompts), room)
    # For mypy a PreTrainedModel has no `generate`.
    generated_BS = unwrapped(model).generate(  # type: ignore[operator]
        input_ids=torch.tensor(ids, device=device),
        attention_mask=torch.tensor(mask, device=device),
        max_new_tokens=max_new_tokens,
        eos_token_id=end_ids,
        pad_token_id=pad_token_id,
        stopping_criteria=[ends],
        use_cache=True,
        # Sharded processes need each other's parameters until all of them have finished.
        synced_gpus=group.sharded,
        **GREEDY,
    )
    return [_until(tokens, {*end_ids, pad_token_id}) for tokens in generated_BS[:, longest:].tolist()]


class AnswerEnds(StoppingCriteria):
    """Stop each sequence where its own text ends, or after as many tokens as it has room for."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        start: int,
        endings: Sequence[Ending],
        room: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.start = start
        self.endings = endings
        self.room = room or [sys.maxsize] * len(endings)

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        """Which sequences are done [B]."""
        del scores
        # Most answers end with a token alone, and no text is needed.
        by_text = any(ending != Ending() for ending in self.endings)
        start = max(self.start, input_ids.shape[1] - STOP_WINDOW_TOKENS)
        generated = input_ids.shape[1] - self.start
        texts = decode(self.tokenizer, input_ids[:, start:].tolist()) if by_text else [""] * len(self.endings)
        # A window that opens within an answer need not open with a line.
        before = " " if start > self.start else ""
        done_B = [
            generated >= room or ending.find(before + text) is not None
            for ending, room, text in zip(self.endings, self.room, texts, strict=True)
        ]
        return torch.tensor(done_B, device=input_ids.device)


def decode(tokenizer: PreTrainedTokenizerBase, answers: list[list[int]]) -> list[str]:
    """The texts of answers: without special tokens, but with what a model spelled like one."""
    texts: list[str] = tokenizer.batch_decode(answers, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return texts


def end_tokens(model: Model, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: those of the model's generation config, and those used in training."""
    configured = unwrapped(model).generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*listed, tokenizer.eos_token_id, end_of_turn(tokenizer)) if token is not None})


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    return tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]


def _record_experts(
    model: Model,
    batch: Sequence[Encoded],
    answers: Sequence[list[int]],
    pad_token_id: int,
    batch_tokens: int,
    expert_use: ExpertUse,
) -> None:
    """Count experts by running prompts and answers once more: the passes of a generation see one token each."""
    sequences = [pack(replace(question, options=[answer])) for question, answer in zip(batch, answers, strict=True)]
    # One position is enough: no logits are used.
    sequences = [replace(packed, scored_positions=packed.scored_positions[:1]) for packed in sequences]
    parts = list(batches(sequences, batch_tokens))
    group = processes()
    # Sharded processes must run equally many passes.
    passes = max(group.all_gather(len(parts))) if group.sharded else len(parts)
    for number in range(passes):
        part = parts[min(number, len(parts) - 1)]
        with expert_use.record(model, part) if number < len(parts) else nullcontext():
            model(**inputs_for(model, part, pad_token_id), use_cache=False)


def _answer(row: AnyRow, text: str) -> str | None:
    """The part of a generated text that is compared: its final number, or the reply."""
    if isinstance(row, Solution):
        return final_number(text)
    reply = text.strip()
    return reply if isinstance(row, Reply) and "\n" in row.response else reply.partition("\n")[0].rstrip()


def _prediction(row: AnyRow, text: str | None) -> GeneratedPrediction:
    text = text or ""
    answer = _answer(row, text)
    if isinstance(row, Solution):
        right = same_number(answer, row.final)
        strict, flexible = strict_match(text, row.final), flexible_match(text, row.final)
        return SolutionPrediction(row.id, answer, right, strict, flexible)
    # Choices are scored by likelihood.
    assert isinstance(row, Reply)
    return GeneratedPrediction(row.id, answer, same_text(answer or "", row.response))
