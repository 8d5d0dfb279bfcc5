"""Multiple choice by likelihood: the answer is the option whose tokens the model finds likeliest."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate, islice

import torch

from mosld.adapters.config import adapter_config, by_prompt
from mosld.adapters.load import Model
from mosld.data.rows import AnyRow, Row
from mosld.data.tokens.prompts import Encoded
from mosld.evaluation.correctness import likeliest, likeliest_per_character
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.forward import Progress, inputs_for, run_batches, scoring_mode, takes_block_mask
from mosld.evaluation.packing import Packed, batches, pack, pack_shared_prefix, unpack_options


@dataclass(frozen=True, slots=True)
class ChoicePrediction:
    """The model's answer to one question: a line of `predictions/<task>.jsonl`.

    Attributes:
        prediction: index of the likeliest option.
        correct: whether that is the right one.
        normalised: index of the likeliest option per character of its text.
        normalised_correct: whether that is the right one.
        scores: log-likelihood of each option, in nats.
    """

    id: str
    prediction: int
    correct: bool
    normalised: int
    normalised_correct: bool
    scores: list[float]


def score_choices(
    model: Model,
    questions: Sequence[Encoded],
    pad_token_id: int,
    batch_tokens: int,
    progress: Progress = iter,
    expert_use: ExpertUse | None = None,
) -> list[ChoicePrediction]:
    """Answer multiple-choice questions in eval mode.

    Args:
        model: a causal language model, with or without an adapter; its training mode is restored at the end.
        pad_token_id: any token id; padding is masked.
        progress: wraps the batches, for a progress bar.
        expert_use: counts the experts that the tokens of this process take.

    Returns:
        One prediction per question, in their order.
    """
    sequences = _pack(model, questions, batch_tokens)

    def answer(batch: list[Packed], recorded: bool) -> list[list[float]]:
        with expert_use.record(model, batch) if expert_use is not None and recorded else nullcontext():
            logits_PV = model(**inputs_for(model, batch, pad_token_id), use_cache=False).logits.float()
        return _option_scores(batch, logits_PV)

    with scoring_mode(model):
        scores_by_sequence = run_batches(list(batches(sequences, batch_tokens)), answer, progress)
    scores: dict[int, list[float]] = {id(question): [] for question in questions}
    for packed in sequences:
        remaining = iter(scores_by_sequence[id(packed)])
        for question in packed.questions:
            scores[id(question)] += islice(remaining, len(question.options))
    return [_prediction(question.row, scores[id(question)]) for question in questions]


def _pack(model: Model, questions: Sequence[Encoded], max_tokens: int) -> list[Packed]:
    """Pack as much into one sequence as model and adapter allow."""
    if not takes_block_mask(model):
        return [packed for question in questions for packed in unpack_options(question)]
    if by_prompt(adapter_config(model)):
        # The prompt chooses one expert for a whole sequence.
        return [pack(question) for question in questions]
    return pack_shared_prefix(questions, max_tokens)


def _option_scores(batch: Sequence[Packed], logits_PV: torch.Tensor) -> list[list[float]]:
    """The log-likelihood of each option of each sequence: the sum over its tokens.

    Args:
        logits_PV: logits over the vocabulary V at the scored positions P, sequence after sequence.
    """
    starts = accumulate((len(packed.scored_positions) for packed in batch), initial=0)
    targets = [
        (start + position, token)
        for start, packed in zip(starts, batch, strict=False)
        for option in packed.targets
        for position, token in option
    ]
    positions, tokens = torch.tensor(targets, device=logits_PV.device).T
    log_probs = iter((logits_PV[positions, tokens] - logits_PV.logsumexp(-1)[positions]).tolist())
    return [[sum(islice(log_probs, len(option))) for option in packed.targets] for packed in batch]


def _prediction(row: AnyRow, scores: list[float]) -> ChoicePrediction:
    # Worked solutions and replies are generated.
    assert isinstance(row, Row)
    raw = likeliest(scores)
    normalised = likeliest_per_character(scores, row.choices)
    return ChoicePrediction(row.id, raw, raw == row.answer, normalised, normalised == row.answer, scores)
