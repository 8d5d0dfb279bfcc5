"""The load-balancing losses.

Shapes: B batch, S sequence, E experts, M modules.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mosld.adapters.routing import Routing

SMALLEST = torch.finfo(torch.float32).tiny  # a micro-batch of pads alone has loss 0


def balance_loss(
    routings: dict[str, Routing],
    mask_BS: Tensor | None,
    formula: str = "switch",
    whole: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean over modules of the load-balancing loss, and how many assignments each expert got.

    Per module, with c_i the tokens that chose expert i, T all tokens, and P_i the mean probability of expert i:

        switch         E * sum_i c_i / sum_j c_j * P_i   Switch Transformer, arXiv 2101.03961, eq. 4-6, for several
                                                         choices a token: 1 at balance, whatever E, k and depth
        paper_literal  sum_i c_i / T * P_i               MoSLD, eq. 4 as printed, with c_i divided by T
        sira           sum_i c_i / T * P_i / E           SiRA, arXiv 2311.09179; P of the probabilities after dropout

    Choices are counted before full experts turn any away.

    Args:
        mask_BS: 1 for a token, 0 for a pad; None: all are tokens. Pads never count.
        whole: by module, c and last T of all tokens of the step [E + 1]. The losses of its forward passes then add up
            to that of one pass over all of it.

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
        tokens_BS = real_tokens(probs_MBSE[0], mask_BS)
        counts_ME = torch.einsum("m...e,...->me", chosen_MBSE, tokens_BS)
        # A micro-batch of pads alone has loss 0.
        tokens = tokens_BS.sum().clamp(min=1)
        load_ME = counts_ME
        if whole is not None:
            load_ME = torch.stack([whole[name] for name in names])
            load_ME, tokens = load_ME[:, :-1], load_ME[0, -1].clamp(min=1)
        P_ME = torch.einsum("m...e,...->me", probs_MBSE, tokens_BS) / tokens
        if formula == "switch":
            shares_ME = experts * load_ME / load_ME.sum(-1, keepdim=True).clamp(min=1)
        else:
            shares_ME = load_ME / tokens / (experts if formula == "sira" else 1)
        losses.append((shares_ME * P_ME).sum(-1))
        counts.update(zip(names, counts_ME, strict=True))
    return torch.cat(losses).mean(), counts


def real_tokens(probs_BSE: Tensor, mask_BS: Tensor | None) -> Tensor:
    """1 for a token, 0 for a pad [B, S], in the dtype of the probabilities."""
    tokens_BS = torch.ones_like(probs_BSE[..., 0])
    # A decoder beside an encoder has tokens of its own, of which the mask tells nothing.
    if mask_BS is not None and mask_BS.numel() == tokens_BS.numel():
        tokens_BS = mask_BS.to(tokens_BS).reshape(tokens_BS.shape)
    return tokens_BS


def localised_loss(routings: dict[str, Routing], mask_BS: Tensor | None, kinds_B: Tensor, offset: float) -> Tensor:
    """LoRAMoE's localised balancing constraint (arXiv 2312.09979, eq. 5-7), the mean over modules.

    Q_ib is the sum of expert i's gates over the tokens of row b, Z_ib = Q_ib times 1 + offset where expert and row are
    of one kind, else 1 - offset; the first half of the experts is of kind 0. The loss is var(Z) / mean(Z).

    Departure: the authors' code divides by the square of the mean. With the paper's formula the loss grows with the
    length of the rows.
    """
    losses = []
    for routing in routings.values():
        gates_BSE = routing.gates_BSE * real_tokens(routing.probs_BSE, mask_BS).unsqueeze(-1)
        mass_BE = gates_BSE.view(len(kinds_B), -1, gates_BSE.shape[-1]).sum(1)
        experts = mass_BE.shape[-1]
        of_second_E = torch.arange(experts, device=mass_BE.device) >= (experts + 1) // 2
        alike_BE = of_second_E == (kinds_B.to(mass_BE.device) > 0).unsqueeze(-1)
        weighted_BE = mass_BE * torch.where(alike_BE, 1 + offset, 1 - offset)
        losses.append(weighted_BE.var() / weighted_BE.mean().clamp(min=SMALLEST))
    return torch.stack(losses).mean()
