"""Which experts a token takes, and how evenly all tokens together use them.

Shapes: B batch, S sequence, E experts, M modules.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class Routing(NamedTuple):
    """The router's answer for every token of one module.

    Attributes:
        probs_BSE: softmax over all experts, fp32.
        gates_BSE: the weight of each expert in the sum; 0 for an expert that the token does not take.
    """

    probs_BSE: Tensor
    gates_BSE: Tensor


def top_k_routing(logits_BSE: Tensor, k: int) -> Routing:
    """Softmax over all experts in fp32, the k largest kept and divided by their sum (MoSLD eq. 1)."""
    probs_BSE = logits_BSE.softmax(-1, dtype=torch.float32)
    top_BSK, chosen_BSK = probs_BSE.topk(k, dim=-1)
    weights_BSK = top_BSK / top_BSK.sum(-1, keepdim=True)
    return Routing(probs_BSE, torch.zeros_like(probs_BSE).scatter(-1, chosen_BSK, weights_BSK))


class RoutingTrace:
    """Collects the routings of one forward pass, by module, while it is open.

    It is closed outside the tuner's forward, so that no graph outlives a step, and so that the second forward of
    gradient checkpointing counts nothing twice.
    """

    def __init__(self) -> None:
        """Start closed."""
        self._records: dict[str, Routing] | None = None

    @contextmanager
    def recording(self) -> Iterator[dict[str, Routing]]:
        """Open the trace; yields the routings by module, filled as the modules run."""
        records: dict[str, Routing] = {}
        self._records = records
        try:
            yield records
        finally:
            self._records = None

    def add(self, module: str, routing: Routing) -> None:
        """Called by each module in its forward; does nothing while the trace is closed."""
        if self._records is not None:
            self._records[module] = routing


def balance_loss(routings: dict[str, Routing], mask_BS: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The load-balancing loss, mean over modules, and how many assignments each expert had.

    Per module L = N * sum_i f_i P_i with f_i the share of assignments that expert i has and P_i its mean probability
    (Switch Transformer, arXiv 2101.03961, eq. 4-6, for k assignments a token): 1 at balance, whatever N, k and depth.

    Args:
        routings: by module.
        mask_BS: 1 for a token, 0 for a pad; None: all are tokens. Pads never count.

    Returns:
        The loss, and for each module the number of assignments of each expert [E], without a graph.
    """
    groups: dict[int, list[str]] = {}
    for name, routing in routings.items():
        groups.setdefault(routing.probs_BSE.shape[-1], []).append(name)
    losses: list[Tensor] = []
    taken: dict[str, Tensor] = {}
    for experts, names in groups.items():
        # Modules with equally many experts are computed at once: four stacks in place of sixty small sums.
        probs_MBSE = torch.stack([routings[name].probs_BSE for name in names])
        taken_MBSE = torch.stack([routings[name].gates_BSE.detach() > 0 for name in names]).float()
        if mask_BS is None:
            mask_BS = torch.ones_like(probs_MBSE[0, ..., 0])
        tokens_BS = mask_BS.to(probs_MBSE)
        taken_ME = torch.einsum("mbse,bs->me", taken_MBSE, tokens_BS)
        f_ME = taken_ME / taken_ME.sum(-1, keepdim=True)
        P_ME = torch.einsum("mbse,bs->me", probs_MBSE, tokens_BS) / tokens_BS.sum()
        losses.append(experts * (f_ME * P_ME).sum(-1))
        taken.update(zip(names, taken_ME, strict=True))
    return torch.cat(losses).mean(), taken
