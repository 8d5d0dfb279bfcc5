"""Which experts a token takes, and with what weight.

Shapes: B batch, S sequence, E experts, K experts per token.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mosld.adapters.kernels.dropout import dropout


class Routing(NamedTuple):
    """The decisions of one module's router.

    Attributes:
        probs_BSE: the router's probabilities over all experts, fp32.
        gates_BSE: the weight of each expert in the sum; 0 for an expert that the token does not take. S is 1 where a
            whole sequence takes one expert.
        chosen_BSE: the experts that the router chose, where some of them were full; None: those with a gate.
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
        """How many choices of each token were turned away by full experts."""
        return (self.taken_BSE * (self.gates_BSE.detach() == 0)).sum(-1)


def _top_k(logits_BSE: Tensor, k: int, bias_E: Tensor | None) -> tuple[Tensor, Tensor]:
    """The logits of the k experts whose logit plus bias is largest, and which these are [B, S, K].

    The bias decides the choice alone and not the gates (loss-free balancing, arXiv 2408.15664).
    """
    if bias_E is None:
        top_BSK, chosen_BSK = logits_BSE.topk(k, dim=-1)
        return top_BSK, chosen_BSK
    chosen_BSK = (logits_BSE + bias_E).topk(k, dim=-1).indices
    return logits_BSE.gather(-1, chosen_BSK), chosen_BSK


def top_k_routing(logits_BSE: Tensor, k: int, bias_E: Tensor | None = None) -> Routing:
    """``g_i = p_i / sum_{j in TopK} p_j`` for the k largest of p = softmax(logits), else 0 (MoSLD eq. 1, as MoLA).

    The gates are computed as the softmax of the k largest logits, which is the same in fewer steps.
    """
    probs_BSE = logits_BSE.softmax(-1, dtype=torch.float32)
    top_BSK, chosen_BSK = _top_k(logits_BSE, k, bias_E)
    return Routing(probs_BSE, _scatter(probs_BSE, chosen_BSK, top_BSK.softmax(-1, dtype=torch.float32)))


def magnitude_routing(scores_BSE: Tensor, k: int, bias_E: Tensor | None = None) -> Routing:
    """Gate 1 for the k largest ``abs(score) + bias``, else 0: FlyLoRA's implicit router (arXiv 2510.08396).

    The shares of the magnitudes stand for probabilities. Departure: the authors' code takes ``abs(score + bias)``,
    where a bias that grows makes negative scores smaller and so rarer.
    """
    sizes_BSE = scores_BSE.detach().abs()
    _, chosen_BSK = _top_k(sizes_BSE, k, bias_E)
    probs_BSE = sizes_BSE / sizes_BSE.sum(-1, keepdim=True).clamp(min=torch.finfo(sizes_BSE.dtype).tiny)
    return Routing(probs_BSE, _scatter(probs_BSE, chosen_BSK, torch.ones_like(chosen_BSK, dtype=probs_BSE.dtype)))


def dense_routing(logits_BSE: Tensor, k: int | None, bias_E: Tensor | None = None) -> Routing:
    """``g_i = p_i`` with p = softmax(logits) (MoLoRA, arXiv 2309.05444, soft merging; HydraLoRA, arXiv 2404.19245).

    With k the other experts are masked and nothing is divided by the sum, as in MoLoRA's author code.
    """
    probs_BSE = logits_BSE.softmax(-1, dtype=torch.float32)
    if k is None:
        return Routing(probs_BSE, probs_BSE)
    top_BSK, chosen_BSK = _top_k_of(probs_BSE, logits_BSE, k, bias_E)
    return Routing(probs_BSE, _scatter(probs_BSE, chosen_BSK, top_BSK))


def _top_k_of(probs_BSE: Tensor, logits_BSE: Tensor, k: int, bias_E: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `_top_k`, for the probabilities, some of which may be dropped."""
    if bias_E is None:
        return _top_k(probs_BSE, k, None)
    _, chosen_BSK = _top_k(logits_BSE.masked_fill(probs_BSE == 0, -torch.inf), k, bias_E)
    return probs_BSE.gather(-1, chosen_BSK), chosen_BSK


def capacity_routing(
    logits_BSE: Tensor,
    k: int,
    factor: float,
    gate_dropout: float,
    mask_BS: Tensor | None,
    training: bool,
    bias_E: Tensor | None = None,
) -> Routing:
    """``G = TopK(Dropout(softmax(logits)))``, not divided, with full experts turning tokens away (arXiv 2311.09179).

    In SiRA each expert has ``ceil(factor * k * T / E)`` slots for the T tokens of a forward pass. They go to all first
    choices in token order, then to second choices, and so on; an assignment beyond gets gate 0. Pads take no slot, and
    neither does an expert whose probability was dropped: it is no choice even where fewer than k are left.

    Departure: dropout and capacity act in training alone. Otherwise an answer would depend on the other rows of its
    batch and on future tokens.
    """
    probs_BSE = dropout(logits_BSE.softmax(-1, dtype=torch.float32), gate_dropout, training)
    top_BSK, chosen_BSK = _top_k_of(probs_BSE, logits_BSE, k, bias_E)
    if not training:
        return Routing(probs_BSE, _scatter(probs_BSE, chosen_BSK, top_BSK))
    experts = probs_BSE.shape[-1]
    tokens_BS = torch.ones_like(probs_BSE[..., 0]) if mask_BS is None else mask_BS.to(probs_BSE)
    chosen_BSKE = one_hot(chosen_BSK, experts) * (tokens_BS.unsqueeze(-1) * (top_BSK > 0)).unsqueeze(-1)
    queue = chosen_BSKE.movedim(-2, 0).flatten(0, -2)  # [K*B*S, E]: first choices, then second ones
    position_BSKE = queue.cumsum(0).view(k, *probs_BSE.shape).movedim(0, -2)
    slots = torch.ceil(factor * k * tokens_BS.sum() / experts)
    fits_BSK = (position_BSKE * chosen_BSKE).sum(-1) <= slots
    return Routing(probs_BSE, _scatter(probs_BSE, chosen_BSK, top_BSK * fits_BSK), chosen_BSKE.sum(-2) > 0)


def _scatter(like_BSE: Tensor, chosen_BSK: Tensor, gates_BSK: Tensor) -> Tensor:
    return torch.zeros_like(like_BSE).scatter(-1, chosen_BSK, gates_BSK)


def one_hot(chosen: Tensor, experts: int) -> Tensor:
    """1 at the chosen index and 0 elsewhere [..., E]; torch's own waits for the host to check the largest index."""
    return (chosen.unsqueeze(-1) == torch.arange(experts, device=chosen.device)).float()


def gate_entropy(probs_BSE: Tensor) -> Tensor:
    """Entropy of the router's probabilities per token [B, S], as a share of the largest possible, ln E."""
    entropy_BS = -torch.special.xlogy(probs_BSE, probs_BSE).sum(-1)
    return entropy_BS / math.log(probs_BSE.shape[-1]) if probs_BSE.shape[-1] > 1 else entropy_BS
