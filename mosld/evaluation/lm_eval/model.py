"""A model that is loaded here as lm-evaluation-harness's own Hugging Face model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mosld.adapters.config import adapter_config
from mosld.data.prompts import Tokenizer
from mosld.evaluation.forward import Progress

Length = Callable[[Any], tuple[int, Any]]  # a request's tokens; how requests of that length are ordered
Run = Callable[[list[Any]], list[Any]]


def wrapped(model: Any, tokenizer: Tokenizer, batch_size: int) -> Any:
    """The harness's model as it is, with its batches of `batch_size` sequences; see `_prompted` for domains."""
    return _kind(model)(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def bounded(model: Any, tokenizer: Tokenizer, batch_tokens: int, progress: Progress) -> Any:
    """The same, in batches of at most `batch_tokens` padded tokens (or one sequence), with one progress bar.

    Batches of a fixed number of sequences take memory by the longest: the five examples of an MMLU question alone are
    thousands of tokens, times a vocabulary of logits.
    """
    kind = _bounded(_kind(model), batch_tokens, progress)
    return kind(pretrained=model, tokenizer=tokenizer, batch_size=1)


def _kind(model: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return _prompted(HFLM) if getattr(adapter_config(model), "router", None) == "domain" else HFLM


def _bounded(kind: Any, batch_tokens: int, progress: Progress) -> Any:
    """The harness's model, given its requests in parts that are one batch each."""

    class Bounded(kind):
        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            """As the harness's, without its bars: the batches below have one."""
            return super().loglikelihood(requests, disable_tqdm=True)

        def _loglikelihood_tokens(
            self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
        ) -> list[tuple[float, bool]]:
            run = super()._loglikelihood_tokens
            if override_bs is not None:  # of a longer text that is scored in windows, a batch by itself
                return run(requests, disable_tqdm=True, override_bs=override_bs)
            # Options of one question lie side by side: of one token each, they are one sequence to the harness.
            return self._in_parts(
                requests, lambda one: (len(one[1]) + len(one[2]), one[1]), lambda part: run(part, disable_tqdm=True)
            )

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
            """As the harness's, in batches bounded by prompt and longest answer together."""
            run = super().generate_until
            return self._in_parts(
                requests,
                lambda one: (len(self.tok_encode(one.args[0])) + self.max_gen_toks, one.args[0]),
                lambda part: run(part, disable_tqdm=True),
            )

        def _in_parts(self, requests: Sequence[Any], length: Length, run: Run) -> list[Any]:
            lengths = [length(one) for one in requests]
            answers: dict[int, Any] = {}
            for part in progress(_parts(lengths, batch_tokens)):
                self.batch_size_per_gpu = len(part)
                answers.update(zip(part, run([requests[i] for i in part]), strict=True))
            return [answers[i] for i in range(len(requests))]

    return Bounded


def _parts(lengths: Sequence[tuple[int, Any]], batch_tokens: int) -> list[list[int]]:
    """The places of all requests, longest first, cut so that no part times its longest passes `batch_tokens`."""
    parts: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if parts and (len(parts[-1]) + 1) * lengths[parts[-1][0]][0] <= batch_tokens:
            parts[-1].append(place)
        else:
            parts.append([place])
    return parts


def _prompted(kind: Any) -> Any:
    """The harness's model for a mixture of domains, whose expert the prompt decides: it is told where that ends.

    The harness hands over prompts and options as one padded sequence, by which the options and pads would decide, too.
    """

    class Prompted(kind):
        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            return [self._one(context, option) for _, context, option in requests]

        def _one(self, context: list[int], option: list[int]) -> tuple[float, bool]:
            ids_1S = torch.tensor([[*context, *option[:-1]]], device=self.device)
            prompt_1S = (torch.arange(ids_1S.shape[1], device=self.device) < len(context)).long()[None]
            logits_PV = self.model(input_ids=ids_1S, prompt_mask=prompt_1S).logits[0, len(context) - 1 :].float()
            wanted_P1 = torch.tensor(option, device=self.device).unsqueeze(-1)
            total = logits_PV.log_softmax(-1).gather(-1, wanted_P1).sum().item()
            return total, bool((logits_PV.argmax(-1, keepdim=True) == wanted_P1).all())

    return Prompted
