"""The load-balancing losses.

Shapes: B batch, S sequence, E experts, M modules.
"""

import torch
from torch import Tensor

from mosld.adapters.routing import Routing


def balance_loss(
    routings: dict[str, Routing], mask_BS: Tensor | None, formula: str = "switch"
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean over modules of the load-balancing loss, and how many assignments each expert got.

    Per module, with c_i the tokens that chose expert i, T all tokens, and P_i the mean probability of expert i:

        switch         E * sum_i c_i / sum_j c_j * P_i   Switch Transformer, arXiv 2101.03961, eq. 4-6, for several
                                                         choices a token: 1 at balance, whatever E, k and depth
        paper_literal  sum_i c_i / T * P_i               MoSLD, eq. 4 as printed, with c_i divided by T
        sira           sum_i c_i / T * P_i / E           SiRA, arXiv 2311.09179; P of the probabilities after dropout

    Choices are counted before full experts turn any away.

    Args:
        routings: by module.
        mask_BS: 1 for a token, 0 for a pad; None: all are tokens. Pads never count.
        formula: "switch", "paper_literal" or "sira".

    Returns:
        The loss, and for each module the number of assignments of each expert [E], without a graph.
    """
    # Modules of one shape are computed at once: four stacks instead of sixty small sums.
    # A table by shape would let torch.compile compile anew for every length.
    groups: list[list[str]] = []
    for name, routing in routings.items():
        same = (group for group in groups if routings[group[0]].probs_BSE.shape == routing.probs_BSE.shape)
        group = next(same, None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    losses: list[Tensor] = []
    counts: dict[str, Tensor] = {}
    for names in groups:
        experts = routings[names[0]].probs_BSE.shape[-1]
        probs_MBSE = torch.stack([routings[name].probs_BSE for name in names])
        chosen_MBSE = (torch.stack([routings[name].marks_BSE for name in names]) > 0).to(probs_MBSE)
        tokens_BS = torch.ones_like(probs_MBSE[0, ..., 0])
        # A decoder beside an encoder has tokens of its own, of which the mask tells nothing.
        if mask_BS is not None and mask_BS.numel() == tokens_BS.numel():
            tokens_BS = mask_BS.to(probs_MBSE).reshape(tokens_BS.shape)
        counts_ME = torch.einsum("m...e,...->me", chosen_MBSE, tokens_BS)
        # A micro-batch of pads alone has loss 0.
        tokens = tokens_BS.sum().clamp(min=1)
        P_ME = torch.einsum("m...e,...->me", probs_MBSE, tokens_BS) / tokens
        if formula == "switch":
            shares_ME = experts * counts_ME / counts_ME.sum(-1, keepdim=True).clamp(min=1)
        else:
            shares_ME = counts_ME / tokens / (experts if formula == "sira" else 1)
        losses.append((shares_ME * P_ME).sum(-1))
        counts.update(zip(names, counts_ME, strict=True))
    return torch.cat(losses).mean(), counts
