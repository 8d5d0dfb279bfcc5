"""Routers: from hidden states to gates, for each token or one expert for a whole sequence.

Shapes: B batch, S sequence, I in, E experts.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, rms_norm
from transformers.utils.generic import maybe_autocast

from mosld.adapters.config import MosldConfig
from mosld.adapters.forward_context import ForwardContext
from mosld.adapters.kernels.fused_linear import MaskedWeight, in_autocast, refuse_offloaded
from mosld.adapters.routing import Routing, capacity_routing, dense_routing, magnitude_routing, one_hot, top_k_routing

NORMAL_DEVIATION = 0.02  # of the author code of MoLoRA and MixLoRA


class Router(nn.Module):
    """A linear layer without bias in fp32, and the rule that makes gates of its softmax.

    In low precision a router would flip near-ties, so it computes in fp32 under autocast, too.

    Attributes:
        weight: [E, I]; None with router "magnitude", which learns nothing.
        bias: [E], added to the logits in the top-k choice alone; None without balance "bias", which moves it after each
            optimiser step (`step_load.StepLoad`). A buffer: it has no gradient.
        kept: [E], which experts a router without the closed ones has rows for (`bank.without_closed`); None: all. Its
            routings are over all experts.
    """

    kept: Tensor | None = None
    bias: Tensor | None

    def __init__(self, in_features: int, experts: int, config: MosldConfig) -> None:
        super().__init__()
        self.config = config
        learns = config.router != "magnitude"
        self.weight = nn.Parameter(torch.empty(experts, in_features, dtype=torch.float32)) if learns else None
        self.register_buffer("bias", torch.zeros(experts) if config.balance == "bias" else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights at random."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.weight is None:
            return
        if self.config.router_init == "zero":
            nn.init.zeros_(self.weight)
        elif self.config.router_init == "normal":
            nn.init.normal_(self.weight, std=NORMAL_DEVIATION)
        else:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def fused_logits(self, x_BSI: Tensor) -> list[MaskedWeight]:
        """The weight for the logits, where the experts' product of x can compute them, too; else nothing.

        A router "domain" needs no logits per token. Under autocast, or in a model cast to low precision, the experts'
        product is not in fp32.
        """
        if self.weight is None or self.config.router == "domain" or self.config.router_input == "Ax":
            return []
        low = in_autocast(x_BSI) or self.weight.dtype.itemsize < torch.float32.itemsize
        return [] if low else [(self.weight, None)]

    def forward(self, x_BSI: Tensor, context: ForwardContext, *logits: Tensor) -> Routing:
        """The routing of every token; with router "domain", of every sequence (S is 1).

        Args:
            logits: from `fused_logits`, where they are computed already.
        """
        refuse_offloaded(x_BSI, [] if self.weight is None else [self.weight])
        with maybe_autocast(x_BSI.device.type, enabled=False):
            config = self.config
            if config.router == "domain":
                return self._by_sequence(x_BSI.float(), self._weight, context)
            logits_BSE = logits[0] if logits else linear(x_BSI.float(), self._weight)
            routing = self._by_token(logits_BSE, context.mask_of(x_BSI))
            if self.kept is None:
                return routing
            return Routing(self._over_all(routing.probs_BSE), self._over_all(routing.gates_BSE))

    @property
    def _weight(self) -> Tensor:
        assert self.weight is not None
        return self.weight.float()

    def _by_token(self, logits_BSE: Tensor, mask_BS: Tensor | None) -> Routing:
        config = self.config
        if config.router == "dense":
            return dense_routing(logits_BSE, config.top_k, self.bias)
        assert config.top_k is not None  # checked by the config
        if config.router == "capacity":
            return capacity_routing(
                logits_BSE, config.top_k, config.capacity_factor, config.gate_dropout, mask_BS, self.training, self.bias
            )
        if config.router == "magnitude":
            return magnitude_routing(logits_BSE, config.top_k, self.bias)
        return top_k_routing(logits_BSE, config.top_k, self.bias)

    def _over_all(self, part: Tensor) -> Tensor:
        """Numbers of the experts that are kept, with 0 for each closed one."""
        if self.kept is None:
            return part
        whole = part.new_zeros(*part.shape[:-1], len(self.kept))
        whole[..., self.kept] = part
        return whole

    def _by_sequence(self, x_BSI: Tensor, weight: Tensor, context: ForwardContext) -> Routing:
        """MoA's router (Feng et al. 2024, arXiv 2403.03432): one expert j for the whole sequence, ``s B_j A_j x``.

        p = softmax(W_r norm(h)), with h the mean or the last of the prompt's hidden states. In training, j is the
        sequence's own domain, and the router learns to name it by cross entropy. In eval j is the arg-max of p, the
        vote of all layers, or every expert has its gate p_j. Training forwards without labels and domains, of losses
        that know no right expert, decide as eval mode does, with a straight-through gradient for the router.

        Departures: h is detached and divided by its root mean square. Otherwise experts learn to mark the hidden
        states with their own name, which later routers read instead of the text, and in eval, where no expert is given,
        these marks mislead. And a mean over many tokens is small (.025 at the first layer of SmolLM2-135M), so that
        its router would learn 40 times slower.
        """
        # S is 1 from here on.
        pooled_BSI = self._pool(x_BSI.detach(), context.deciding_mask(x_BSI))
        logits_BSE = linear(rms_norm(pooled_BSI, pooled_BSI.shape[-1:]), weight)
        probs_BSE = self._over_all(logits_BSE.softmax(-1))
        if self.training and context.domain_B is None and context.supervised:
            raise ValueError(
                "a mixture of domains is trained with domain=[B], the index of each row's own expert (transformers' "
                "Trainer keeps that column with remove_unused_columns=False; TRL's trainers cannot pass it)"
            )
        if self.training and context.domain_B is not None:
            gates_BSE = one_hot(context.domain_B[:, None], probs_BSE.shape[-1])
            return Routing(probs_BSE, gates_BSE, loss=cross_entropy(logits_BSE.squeeze(1), context.domain_B))
        best_B = probs_BSE.argmax(-1).squeeze(1)
        if context.votes is not None:
            context.votes.append(best_B)
        elif self.config.inference == "vote" and context.elected_B is not None:
            best_B = context.elected_B
        gates_BSE = probs_BSE if self.config.inference == "soft" else one_hot(best_B[:, None], probs_BSE.shape[-1])
        if self.training:  # the values of eval mode, with the gradient of the probabilities
            gates_BSE = gates_BSE.detach() + (probs_BSE - probs_BSE.detach())
        return Routing(probs_BSE, gates_BSE)

    def _pool(self, x_BSI: Tensor, mask_BS: Tensor) -> Tensor:
        if self.config.pool == "mean":
            mask_BSI = mask_BS.unsqueeze(-1)
            return (x_BSI * mask_BSI).sum(1, keepdim=True) / mask_BSI.sum(1, keepdim=True).clamp(min=1)
        positions_S = torch.arange(1, x_BSI.shape[1] + 1, device=x_BSI.device)
        last_B = (mask_BS * positions_S).argmax(-1)
        return x_BSI[torch.arange(len(x_BSI), device=x_BSI.device), last_B].unsqueeze(1)
