"""Routers: from hidden states to gates, token by token or one expert for a whole sequence.

Shapes: B batch, S sequence, I in, E experts.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, rms_norm
from transformers.utils.generic import maybe_autocast

from mosld.adapters.config import MosldConfig
from mosld.adapters.forward_context import ForwardContext
from mosld.adapters.kernels.fused_linear import Pair, under_autocast
from mosld.adapters.routing import Routing, capacity_routing, dense_routing, one_hot, top_k_routing

NORMAL_DEVIATION = 0.02  # of the authors' code of MoLoRA and MixLoRA


class Router(nn.Module):
    """A linear layer without bias, in fp32, and the rule that makes gates of its softmax.

    Attributes:
        weight: [E, I].
    """

    def __init__(self, in_features: int, experts: int, config: MosldConfig) -> None:
        """Make the weights in fp32 on the current default device."""
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(experts, in_features, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights."""
        if self.config.router_init == "normal":
            nn.init.normal_(self.weight, std=NORMAL_DEVIATION)
        else:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def beside(self, x_BSI: Tensor) -> list[Pair]:
        """Its product, if it can be made beside those of the experts, for `forward` to take.

        A router "domain" needs none for every token. Under autocast, or of a model cast to low precision, the experts'
        products are no place for a router.
        """
        low = under_autocast(x_BSI) or self.weight.dtype.itemsize < torch.float32.itemsize
        return [] if low or self.config.router == "domain" else [(self.weight, None)]

    def forward(self, x_BSI: Tensor, context: ForwardContext, *products: Tensor) -> Routing:
        """The routing of every token; with router "domain", of every sequence (S is 1).

        Args:
            x_BSI: hidden states.
            context: of the forward pass.
            products: those of `beside`, where they are made.
        """
        # Under autocast a router in low precision would flip close choices.
        with maybe_autocast(x_BSI.device.type, enabled=False):
            config = self.config
            if config.router == "domain":
                return self._by_sequence(x_BSI.float(), self.weight.float(), context)
            logits_BSE = products[0] if products else linear(x_BSI.float(), self.weight.float())
            if config.router == "dense":
                return dense_routing(logits_BSE, config.top_k)
            assert config.top_k is not None  # checked by the config
            if config.router == "capacity":
                factor, drop = config.capacity_factor, config.gate_dropout
                return capacity_routing(logits_BSE, config.top_k, factor, drop, context.mask_BS, self.training)
            return top_k_routing(logits_BSE, config.top_k)

    def _by_sequence(self, x_BSI: Tensor, weight: Tensor, context: ForwardContext) -> Routing:
        """MoA's router (Feng et al. 2024, arXiv 2403.03432): one expert for the whole sequence.

        In training it is the expert of the sequence's own domain, and the router learns to name it from the hidden
        states of the prompt. In eval the router decides.
        """
        # Detached: else the experts learn to mark the hidden states with their own names, which later routers read in
        # place of the text; in eval nobody has chosen the right expert yet, and the marks mislead. Normalised: a mean
        # of many tokens is small (.025 at the first layer of SmolLM2-135M), and its router would learn 40 times slower.
        pooled_BI = self._pooled(x_BSI.detach(), context.deciding(x_BSI))
        pooled_BI = rms_norm(pooled_BI, pooled_BI.shape[-1:])
        logits_BE = linear(pooled_BI, weight)
        probs_BE = logits_BE.softmax(-1)
        if self.training:
            if context.domain_B is None:
                raise ValueError("a mixture of domains is trained with domain=[B], the index of each row's own expert")
            gates_BE = one_hot(context.domain_B, len(weight))
            return Routing(probs_BE[:, None], gates_BE[:, None], loss=cross_entropy(logits_BE, context.domain_B))
        best_B = probs_BE.argmax(-1)
        if context.votes is not None:
            context.votes.append(best_B)
        elif self.config.inference == "vote" and context.elected_B is not None:
            best_B = context.elected_B
        gates_BE = probs_BE if self.config.inference == "soft" else one_hot(best_B, len(weight))
        return Routing(probs_BE[:, None], gates_BE[:, None])

    def _pooled(self, x_BSI: Tensor, mask_BS: Tensor) -> Tensor:
        if self.config.pool == "mean":
            return (x_BSI * mask_BS.unsqueeze(-1)).sum(1) / mask_BS.sum(1, keepdim=True).clamp(min=1)
        places_S = torch.arange(1, x_BSI.shape[1] + 1, device=x_BSI.device)
        last_B = (mask_BS * places_S).argmax(-1)
        return x_BSI[torch.arange(len(x_BSI), device=x_BSI.device), last_B]
