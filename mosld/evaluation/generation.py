"""Answers by greedy generation with a cache: solutions are right by their final number, replies by their words.

Shapes: B questions, S longest prompt and what was generated so far.
"""

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from mosld.data.parsing import final_number
from mosld.data.prompts import Encoded, Tokenizer
from mosld.data.rows import AnyRow, Reply, Solution
from mosld.distributed.fsdp import device_of
from mosld.distributed.processes import processes
from mosld.evaluation.correctness import same_number, same_text
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.forward import Progress, in_batches, inputs_for, scoring
from mosld.evaluation.packing import batches, pack

# A base model goes on with a question of its own: lm-evaluation-harness stops there, too.
NEXT = re.compile(r"\nQuestion:")
DONE = re.compile(rf"####[^\n]*\d[^\n]*\n|{NEXT.pattern}")
TAIL = 32  # tokens in which the end of an answer is looked for: the line of a final number is shorter
# Greedy whatever the model's own generation config says.
GREEDY = {
    "do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "temperature": None, "top_p": None, "top_k": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class NumberPrediction:
    """The number that the model's solution of one question ends in.

    Attributes:
        id: the row's id.
        prediction: the number as the model wrote it; None: its answer holds no number.
        correct: whether it has the value of the row's own.
    """

    id: str
    prediction: str | None
    correct: bool

    def as_json(self) -> dict[str, Any]:
        """The prediction as an object of `predictions/<task>.jsonl`; no text is part of it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ReplyPrediction:
    """The model's reply to one question.

    Attributes:
        id: the row's id.
        prediction: what the model wrote: its first line, where the response has one line.
        correct: whether it says what the response says.
    """

    id: str
    prediction: str
    correct: bool

    def as_json(self) -> dict[str, Any]:
        """The prediction as an object of `predictions/<task>.jsonl`; the question's text is not part of it."""
        return asdict(self)


def generate_answers(
    model: Any,
    questions: Sequence[Encoded],
    tokenizer: Tokenizer,
    max_new_tokens: int,
    batch_tokens: int,
    progress: Progress = iter,
    use: ExpertUse | None = None,
) -> list[NumberPrediction | ReplyPrediction]:
    """Answer every question, in eval mode, in the order given.

    Args:
        model: a causal language model, adapted or not; its training mode is restored afterwards.
        questions: prompts as tokens, without options.
        tokenizer: the model's.
        max_new_tokens: longest answer; it is cut there.
        batch_tokens: padded tokens of the prompts of one batch.
        progress: wraps the batches, for a progress bar.
        use: takes note of the experts that this process's tokens take: those of the prompt and of the answer.
    """

    def answer(batch: list[Encoded], counts: bool) -> list[str | None]:
        """The answers of a batch: final numbers as text, and replies."""
        ends = [DONE if isinstance(question.row, Solution) else NEXT for question in batch]
        answers = generate(model, [question.prompt for question in batch], tokenizer, max_new_tokens, ends)
        if use is not None and use.watches(model):
            _watch(model, batch, answers, tokenizer.pad_token_id, batch_tokens, use if counts else ExpertUse())
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [_answer(question.row, text) for question, text in zip(batch, texts, strict=True)]

    with scoring(model):
        # Every new token is a pass of its own: more answers at a time are worth any pads before their prompts.
        work = list(batches(questions, batch_tokens, most_pads=batch_tokens))
        found = in_batches(work, answer, progress)
    return [_judge(question.row, found[id(question)]) for question in questions]


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    tokenizer: Tokenizer,
    max_new_tokens: int,
    endings: Sequence[re.Pattern[str]] = (),
) -> list[list[int]]:
    """The most likely next tokens of each prompt, up to the end of its answer, which is no part of them.

    An answer ends with the end of the text, where its own of the `endings` is found (default: with the line that gives
    the final number, or where the model begins another question), or after `max_new_tokens`.
    """
    pad, group = tokenizer.pad_token_id, processes()
    device = device_of(model, group)
    longest = max(map(len, prompts))
    ids_BS = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    mask_BS = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    ends = end_tokens(model, tokenizer)
    made_BS = getattr(model, "module", model).generate(
        input_ids=ids_BS,
        attention_mask=mask_BS,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=pad,
        stopping_criteria=[Answered(tokenizer, longest, endings or [DONE] * len(prompts))],
        use_cache=True,
        synced_gpus=group.sharded,  # one that is done goes on with the others, who need its part of the model
        **GREEDY,
    )
    return [_until(made, {*ends, pad}) for made in made_BS[:, longest:].tolist()]


class Answered(StoppingCriteria):
    """A sequence is done when its answer is: it has given a final number, or begins another question."""

    def __init__(self, tokenizer: Tokenizer, start: int, endings: Sequence[re.Pattern[str]]) -> None:
        """Look for each sequence's own ending in its tokens from `start` on."""
        self.tokenizer, self.start, self.endings = tokenizer, start, endings

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Which sequences are done [B]."""
        tails_BS = input_ids[:, max(self.start, input_ids.shape[1] - TAIL) :]
        texts = self.tokenizer.batch_decode(tails_BS, skip_special_tokens=True)
        done = [bool(end.search(text)) for end, text in zip(self.endings, texts, strict=True)]
        return torch.tensor(done, device=input_ids.device)


def end_tokens(model: Any, tokenizer: Tokenizer) -> list[int]:
    """The tokens that end an answer: those of the model, and the one that runs are trained with."""
    own = getattr(model, "module", model).generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own]
    return sorted({token for token in (*listed, tokenizer.eos_token_id) if token is not None})


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    return tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]


def _watch(
    model: Any, batch: Sequence[Encoded], answers: Sequence[list[int]], pad: int, batch_tokens: int, use: ExpertUse
) -> None:
    """Run prompts and answers once more, whole: a generation's own passes see one token each."""
    whole = [pack(replace(question, options=[answer])) for question, answer in zip(batch, answers, strict=True)]
    parts, group = (
        list(batches([replace(packed, sites=packed.sites[:1]) for packed in whole], batch_tokens)),
        processes(),
    )
    passes = max(group.all_gather(len(parts))) if group.sharded else len(parts)
    for number in range(passes):  # all make as many where the model is sharded
        part = parts[min(number, len(parts) - 1)]
        with use.watch(model, part) if number < len(parts) else nullcontext():
            model(**inputs_for(model, part, pad), use_cache=False)


def _answer(row: AnyRow, text: str) -> str | None:
    """What counts of a generated text: its final number, or the reply, of one line where the response has one."""
    if isinstance(row, Solution):
        return final_number(text)
    reply = NEXT.split(text)[0].strip()
    return reply if isinstance(row, Reply) and "\n" in row.response else reply.partition("\n")[0].rstrip()


def _judge(row: AnyRow, answer: str | None) -> NumberPrediction | ReplyPrediction:
    if isinstance(row, Solution):
        return NumberPrediction(row.id, answer, same_number(answer, row.final))
    assert isinstance(row, Reply)  # choices are scored by likelihood
    return ReplyPrediction(row.id, answer or "", same_text(answer or "", row.response))
