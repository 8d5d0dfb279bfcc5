"""A loaded model as the `HFLM` of lm-evaluation-harness."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase

from mosld.adapters.config import adapter_config, by_prompt
from mosld.adapters.load import Model
from mosld.evaluation.forward import Progress

# What lm-eval calls a request of likelihood: its texts, and the tokens of prompt and option.
Tokenized = tuple[tuple[str, str], list[int], list[int]]
# The log-likelihood of an option, and whether greedy decoding gives it.
LogLikelihood = tuple[float, bool]
# The length of a request in tokens, and what orders requests of one length.
Key = tuple[int, Any]
Request = TypeVar("Request")
Response = TypeVar("Response")


class PromptedLM(HFLM):
    """For a mixture of domains, whose expert the prompt chooses: score one option at a time, with its prompt masked.

    HFLM runs prompts and options as one padded batch, so that options and padding would influence the choice.
    """

    def _loglikelihood_tokens(self, requests: Sequence[Tokenized], **_: Any) -> list[LogLikelihood]:
        return [self._score_option(prompt, option) for _, prompt, option in requests]

    def _score_option(self, prompt: list[int], option: list[int]) -> LogLikelihood:
        ids_1S = torch.tensor([[*prompt, *option[:-1]]], device=self.device)
        prompt_1S = (torch.arange(ids_1S.shape[1], device=self.device) < len(prompt)).long()[None]
        logits_PV = self.model(input_ids=ids_1S, prompt_mask=prompt_1S).logits[0, len(prompt) - 1 :].float()
        targets_P1 = torch.tensor(option, device=self.device).unsqueeze(-1)
        total = logits_PV.log_softmax(-1).gather(-1, targets_P1).sum().item()
        return total, bool((logits_PV.argmax(-1, keepdim=True) == targets_P1).all())


class BoundedLM(HFLM):
    """HFLM in batches of at most `batch_tokens` padded tokens, or one request, with one progress bar.

    With a fixed number of sequences the longest decide the memory: the five examples of an MMLU question alone are
    thousands of tokens, times a vocabulary of logits.
    """

    def __init__(self, batch_tokens: int, progress: Progress, **options: object) -> None:
        super().__init__(batch_size=1, **options)
        self.batch_tokens = batch_tokens
        self.progress = progress

    def loglikelihood(self, requests: list[Instance], **_: object) -> list[LogLikelihood]:
        """The log-likelihoods of texts, without HFLM's own progress bar."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[Tokenized], override_bs: int | None = None, **_: object
    ) -> list[LogLikelihood]:
        run = super()._loglikelihood_tokens
        # A long text that is scored in windows is a batch by itself.
        if override_bs is not None:
            return run(requests, disable_tqdm=True, override_bs=override_bs)
        # Sorted by prompt, the options of a question stay together: HFLM runs those of one token as one sequence.
        keys = [(len(prompt) + len(option), prompt) for _, prompt, option in requests]
        return self._in_batches(requests, keys, lambda batch: run(batch, disable_tqdm=True))

    def generate_until(self, requests: list[Instance], **_: object) -> list[str]:
        """The generated texts, where prompt and longest answer count for the length."""
        run = super().generate_until
        keys = [(len(self.tok_encode(one.args[0])) + self.max_gen_toks, one.args[0]) for one in requests]
        return self._in_batches(requests, keys, lambda batch: run(batch, disable_tqdm=True))

    def _in_batches(
        self,
        requests: Sequence[Request],
        keys: Sequence[Key],
        run: Callable[[list[Request]], list[Response]],
    ) -> list[Response]:
        responses: dict[int, Response] = {}
        for batch in self.progress(batch_indices(keys, self.batch_tokens)):
            self.batch_size_per_gpu = len(batch)
            responses.update(zip(batch, run([requests[i] for i in batch]), strict=True))
        return [responses[i] for i in range(len(requests))]


class BoundedPromptedLM(BoundedLM, PromptedLM):
    """PromptedLM with one progress bar, and generation in batches of bounded size."""


def batch_indices(keys: Sequence[Key], batch_tokens: int) -> list[list[int]]:
    """The indices of requests in batches, longest first, each within `batch_tokens` padded tokens or of one request.

    Args:
        keys: what the requests are sorted by.
        batch_tokens: most padded tokens of a batch.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(keys)), key=keys.__getitem__, reverse=True):
        if batches and (len(batches[-1]) + 1) * keys[batches[-1][0]][0] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def bounded_model(model: Model, tokenizer: PreTrainedTokenizerBase, batch_tokens: int, progress: Progress) -> BoundedLM:
    """The model as an HFLM with batches of at most `batch_tokens` padded tokens."""
    cls = BoundedPromptedLM if by_prompt(adapter_config(model)) else BoundedLM
    return cls(batch_tokens, progress, pretrained=model, tokenizer=tokenizer)
