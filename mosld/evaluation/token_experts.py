"""Which experts each token of one answer takes, in every routed module.

Shapes: B is 1, S tokens, E experts.
"""

from collections.abc import Sequence
from typing import Any

import torch

Taken = list[tuple[int, float]]
"""The experts of one token with their gates, the largest gate first."""


@torch.inference_mode()
def token_experts(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> dict[str, list[Taken]]:
    """By module, the experts of each token of `answer`; a mixture of domains has one entry for the whole answer.

    One forward pass over prompt and answer is recorded. In eval mode a token's gates depend on it and on what stands
    before it, so they are those of the generation, up to rounding. The experts of a token are those that it takes as
    an input, from which the next token is predicted.

    Returns:
        Nothing for a model without a router.
    """
    context = getattr(model, "context", None)
    if context is None:
        return {}
    ids_BS = torch.tensor([[*prompt, *answer]], device=model.device)
    inputs = {"input_ids": ids_BS, "attention_mask": torch.ones_like(ids_BS)}
    whole = model.active_peft_config.router == "domain"
    if whole:  # the prompt alone decides
        inputs["prompt_mask"] = (torch.arange(ids_BS.shape[1], device=ids_BS.device) < len(prompt)).long()[None]
    with context.recording() as routings:
        model(**inputs, use_cache=False)
    first = 0 if whole else len(prompt)
    return {name: [_taken(gates) for gates in found.gates_BSE[0, first:].tolist()] for name, found in routings.items()}


def _taken(gates: list[float]) -> Taken:
    return sorted(((expert, gate) for expert, gate in enumerate(gates) if gate > 0), key=lambda pair: -pair[1])
