"""Multiple choice by likelihood: the option whose tokens the model finds most likely is its answer."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import accumulate, islice
from typing import Any

import torch

from mosld.adapters.config import adapter_config, by_prompt
from mosld.data.prompts import Encoded
from mosld.data.rows import AnyRow, Row
from mosld.evaluation.correctness import likeliest, likeliest_per_character
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.forward import Progress, in_batches, inputs_for, scoring
from mosld.evaluation.packing import Packed, batches, pack, pack_shared_prefix, spread


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's answer to one question.

    Attributes:
        id: the row's id.
        prediction: index of the most likely option.
        correct: whether that is the right one.
        normalised: index of the most likely option per character of its text.
        normalised_correct: whether that is the right one.
        scores: log-likelihood of each option, in nats.
    """

    id: str
    prediction: int
    correct: bool
    normalised: int
    normalised_correct: bool
    scores: list[float]

    def as_json(self) -> dict[str, Any]:
        """The prediction as an object of `predictions/<task>.jsonl`; the question's text is not part of it."""
        return asdict(self)


def score_choices(
    model: Any,
    questions: Sequence[Encoded],
    pad: int,
    batch_tokens: int,
    progress: Progress = iter,
    use: ExpertUse | None = None,
) -> list[Prediction]:
    """Answer every question, in eval mode, in the order given.

    Args:
        model: a causal language model, adapted or not; its training mode is restored afterwards.
        questions: rows as tokens.
        pad: any token id; pads are masked.
        batch_tokens: padded tokens per forward pass.
        progress: wraps the batches, for a progress bar.
        use: takes note of the experts that this process's tokens take.
    """
    packs = _pack(model, questions, batch_tokens)

    def answer(batch: list[Packed], counts: bool) -> list[list[float]]:
        """The log-likelihoods of each sequence's options, question after question."""
        with use.watch(model, batch) if use and counts else nullcontext():
            logits = model(**inputs_for(model, batch, pad), use_cache=False).logits.float()
        return _scores(batch, logits)

    with scoring(model):
        found = in_batches(list(batches(packs, batch_tokens)), answer, progress)
    scores: dict[int, list[float]] = {id(question): [] for question in questions}
    for packed in packs:
        values = iter(found[id(packed)])
        for question in packed.questions:
            scores[id(question)] += islice(values, len(question.options))
    return [_answer(question.row, scores[id(question)]) for question in questions]


def _pack(model: Any, questions: Sequence[Encoded], most_tokens: int) -> list[Packed]:
    """As much as the adapter allows in one sequence."""
    adapter = adapter_config(model)
    if adapter.is_prompt_learning:  # cannot see a block mask: one for each option
        return [packed for question in questions for packed in spread(question)]
    if by_prompt(adapter):  # one for each question: its prompt chooses the expert of a sequence
        return [pack(question) for question in questions]
    return pack_shared_prefix(questions, most_tokens)


def _scores(batch: Sequence[Packed], logits_PV: torch.Tensor) -> list[list[float]]:
    """Log-likelihood of each option of each sequence: the sum over its tokens."""
    starts = accumulate((len(q.sites) for q in batch), initial=0)
    picks = [
        (start + site, token) for start, q in zip(starts, batch, strict=False) for o in q.targets for site, token in o
    ]
    sites, tokens = torch.tensor(picks, device=logits_PV.device).T
    log_probs = (logits_PV[sites, tokens] - logits_PV.logsumexp(-1)[sites]).tolist()
    values = iter(log_probs)
    return [[sum(next(values) for _ in option) for option in q.targets] for q in batch]


def _answer(row: AnyRow, scores: list[float]) -> Prediction:
    assert isinstance(row, Row)  # worked solutions are generated
    best, normalised = likeliest(scores), likeliest_per_character(scores, row.choices)
    return Prediction(row.id, best, best == row.answer, normalised, normalised == row.answer, scores)
