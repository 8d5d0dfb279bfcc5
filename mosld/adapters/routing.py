"""Which experts a token takes, and with what weight.

Shapes: B batch, S sequence, E experts, K experts per token.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mosld.adapters.kernels.dropout import dropout


class Routing(NamedTuple):
    """The router's answer for every token of one module.

    Attributes:
        probs_BSE: the router's probabilities over all experts, fp32.
        gates_BSE: the weight of each expert in the sum; 0 for an expert that the token does not take. S is 1 where a
            whole sequence takes one expert.
        chosen_BSE: the experts that the router chose, where some of them had no room; None: those with a gate.
        loss: the router's own loss, where it is supervised.
    """

    probs_BSE: Tensor
    gates_BSE: Tensor
    chosen_BSE: Tensor | None = None
    loss: Tensor | None = None

    @property
    def marks_BSE(self) -> Tensor:
        """Above 0 for each expert that the router chose, without a graph."""
        return self.gates_BSE.detach() if self.chosen_BSE is None else self.chosen_BSE

    @property
    def taken_BSE(self) -> Tensor:
        """Whether the router chose each expert, as 0 or 1."""
        return (self.marks_BSE > 0).float()

    @property
    def dropped_BS(self) -> Tensor:
        """How many choices of each token found no room."""
        return (self.taken_BSE * (self.gates_BSE.detach() == 0)).sum(-1)


def top_k_routing(logits_BSE: Tensor, k: int) -> Routing:
    """Softmax over all experts in fp32, the k largest kept and divided by their sum (MoSLD eq. 1)."""
    probs_BSE = logits_BSE.softmax(-1, dtype=torch.float32)
    top_BSK, chosen_BSK = logits_BSE.topk(k, dim=-1)
    weights_BSK = top_BSK.softmax(-1, dtype=torch.float32)  # the same numbers as after the division, in fewer steps
    return Routing(probs_BSE, torch.zeros_like(probs_BSE).scatter(-1, chosen_BSK, weights_BSK))


def dense_routing(logits_BSE: Tensor, k: int | None) -> Routing:
    """Every expert by its probability (MoLoRA, arXiv 2309.05444); with k the others are masked, nothing is divided."""
    probs_BSE = logits_BSE.softmax(-1, dtype=torch.float32)
    if k is None:
        return Routing(probs_BSE, probs_BSE)
    top_BSK, chosen_BSK = probs_BSE.topk(k, dim=-1)
    return Routing(probs_BSE, torch.zeros_like(probs_BSE).scatter(-1, chosen_BSK, top_BSK))


def capacity_routing(
    logits_BSE: Tensor, k: int, factor: float, gate_dropout: float, mask_BS: Tensor | None, training: bool
) -> Routing:
    """SiRA's gates (arXiv 2311.09179): G = TopK(Dropout(p)), not divided, and full experts turn tokens away.

    Each expert has room for ``ceil(factor * k * T / E)`` of the T tokens of a forward pass. Slots go to all first
    choices in token order, then to second choices, and so on; an assignment beyond gets gate 0. Pads take no slot, and
    neither does an expert whose probability was dropped: it is no choice even where fewer than k are left.
    Dropout and capacity act in training alone: else an answer would depend on its batch mates and on future tokens.
    """
    probs_BSE = dropout(logits_BSE.softmax(-1, dtype=torch.float32), gate_dropout, training)
    top_BSK, chosen_BSK = probs_BSE.topk(k, dim=-1)
    if not training:
        return Routing(probs_BSE, torch.zeros_like(probs_BSE).scatter(-1, chosen_BSK, top_BSK))
    experts = probs_BSE.shape[-1]
    tokens_BS = torch.ones_like(probs_BSE[..., 0]) if mask_BS is None else mask_BS.to(probs_BSE)
    chosen_BSKE = one_hot(chosen_BSK, experts) * (tokens_BS.unsqueeze(-1) * (top_BSK > 0)).unsqueeze(-1)
    in_turn = chosen_BSKE.movedim(-2, 0).flatten(0, -2)  # [K*B*S, E]: first choices, then second ones
    turn_BSKE = in_turn.cumsum(0).view(k, *probs_BSE.shape).movedim(0, -2)
    slots = torch.ceil(factor * k * tokens_BS.sum() / experts)
    has_room_BSK = (turn_BSKE * chosen_BSKE).sum(-1) <= slots
    gates_BSE = torch.zeros_like(probs_BSE).scatter(-1, chosen_BSK, top_BSK * has_room_BSK)
    return Routing(probs_BSE, gates_BSE, chosen_BSKE.sum(-2) > 0)


def one_hot(chosen: Tensor, experts: int) -> Tensor:
    """1 at the chosen index and 0 elsewhere [..., E]; torch's own reads the largest index back to check it."""
    return (chosen.unsqueeze(-1) == torch.arange(experts, device=chosen.device)).float()


def gate_entropy(probs_BSE: Tensor) -> Tensor:
    """Entropy of the router's probabilities per token [B, S], as a share of the largest possible, ln E."""
    entropy_BS = -torch.special.xlogy(probs_BSE, probs_BSE).sum(-1)
    return entropy_BS / math.log(probs_BSE.shape[-1]) if probs_BSE.shape[-1] > 1 else entropy_BS
