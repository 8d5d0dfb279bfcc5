"""A bank of LoRA experts that stand side by side in two matrices, so that no loop runs over them.

Shapes: B batch, S sequence, I in, O out, R rank, E experts.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mosld.adapters.config import MosldConfig
from mosld.adapters.forward_context import ForwardContext
from mosld.adapters.kernels.dropout import draw, kept_share
from mosld.adapters.kernels.fused_linear import Pair, products
from mosld.adapters.kernels.grouped import up_by_expert, use_grouped_mm
from mosld.adapters.router import Router
from mosld.adapters.routing import Routing

# PART: A bank of LoRA experts that stand side by side in two matrices, so that no loop runs over them. Shapes: B
# batch, S sequence, I in, O out, R rank, E experts.


NORMAL_DEVIATION = 0.02  # of the author code of MoLoRA


class ExpertBank(nn.Module):
    """The projections A_i and B_i of all experts of one linear layer, with A or B shared by all or neither.

    Attributes:
        A: [R, I] if shared, else [E*R, I]: expert i has rows i*R to (i+1)*R.
        B: [O, R] if shared, else [O, E*R]: expert i has columns i*R to (i+1)*R. Starts at zero: an untrained
            bank changes nothing.
    """

    def __init__(self, in_features: int, out_features: int, experts: int, config: MosldConfig) -> None:
        """Make the weights in fp32 on the current default device."""
        super().__init__()
        rank = config.r
        self.experts, self.rank, self.config = experts, rank, config
        rows = rank if config.share == "A" else experts * rank
        columns = rank if config.share == "B" else experts * rank
        self.A = nn.Parameter(torch.empty(rows, in_features, dtype=torch.float32))
        self.B = nn.Parameter(torch.zeros(out_features, columns, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A at random, B at zero."""
        if self.config.init == "kaiming":
            nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        else:
            nn.init.normal_(self.A, std=1 / self.rank if self.config.init == "gaussian" else NORMAL_DEVIATION)
        nn.init.zeros_(self.B)

    def down(self, x: Tensor) -> Tensor:
        """``A_i x`` for each expert [..., E, R]; with a shared A it is computed once [..., 1, R].

        In training with dropout x or A is masked; the scale comes with `up`.
        """
        return self.by_expert(*products(x, [self.reading(x)]))

    def reading(self, x: Tensor) -> Pair:
        """What `down` multiplies x with, to be made beside other products of x, and which elements of x it sees."""
        return self._masked("A", self.A), draw(x, self.config.dropout) if self._drops("x") else None

    def by_expert(self, z: Tensor) -> Tensor:
        """The result of `down` from that product."""
        return z.unflatten(-1, (-1, self.rank))

    def up(self, z: Tensor, gates: Tensor | None = None) -> Tensor:
        """``(alpha / r) sum_i g_i B_i z_i`` [..., O] of `down`'s result and gates [..., E]; no gates: all are 1.

        Where the config has a top_k, at most so many gates of a token are not 0.
        """
        # Scaled before B, where a token has E*R numbers, not after it, where it has O. Whichever of A, B and x is
        # masked, the scale of inverted dropout is a factor of the whole update, so that it costs nothing here.
        scale, B = self.config.alpha / self.rank, self._masked("B", self.B)
        if self._drops(self.config.dropout_on):
            scale /= kept_share(self.config.dropout)
        if gates is None:
            return linear(scale * z.flatten(-2), B)
        gates = scale * gates.to(z.dtype)
        if self.config.share == "B":
            return linear((gates.unsqueeze(-1) * z).sum(-2), B)
        k = self.config.top_k
        if k is not None and use_grouped_mm(B, self.experts, self.rank, k):
            return up_by_expert(z, gates, B, k)
        return linear((gates.unsqueeze(-1) * z).flatten(-2), B)

    def _masked(self, name: str, weight: Tensor) -> Tensor:
        """The weight with a new mask each forward, if it is what the config drops (MoSLD eq. 2); none in eval."""
        return weight * draw(weight, self.config.dropout) if self._drops(name) else weight

    def _drops(self, name: str) -> bool:
        config = self.config
        return self.training and config.dropout > 0 and config.dropout_on == name != "none"


# PART: The mixture of LoRA experts of one linear layer: expert bank and router, no PEFT. Shapes: B batch, S
# sequence, I in, O out, E experts.


class Mixture(ExpertBank):
    """``(alpha / r) * sum_i g_i B_i A_i x`` for every token.

    Attributes:
        router: gives the gates; None for a single LoRA, and where another module of the layer decides (router
            "domain": one router per layer).
    """

    def __init__(
        self, in_features: int, out_features: int, experts: int, config: MosldConfig, routed: bool = True
    ) -> None:
        """Make the weights in fp32 on the current default device."""
        super().__init__(in_features, out_features, experts, config)
        self.router = Router(in_features, experts, config) if routed else None

    def forward(self, x_BSI: Tensor, context: ForwardContext, layer: str = "") -> tuple[Tensor, Routing | None]:
        """The update of every token [B, S, O] in the type of A, and how the tokens were routed by its own router."""
        beside = [] if self.router is None else self.router.beside(x_BSI)
        *logits, z = products(x_BSI, [*beside, self.reading(x_BSI)])
        routing = None if self.router is None else self._decide(self.router, x_BSI, logits, context, layer)
        gates_BSE = routing.gates_BSE if routing else None
        if self.router is None and self.config.router == "domain":
            gates_BSE = context.decided[layer].gates_BSE
        return self.up(self.by_expert(z), gates_BSE), routing

    def _decide(
        self, router: Router, x_BSI: Tensor, logits_BSE: list[Tensor], context: ForwardContext, layer: str
    ) -> Routing:
        if self.config.router != "domain":
            return router(x_BSI, context, *logits_BSE)
        if context.decoding:  # the expert of the prompt is kept while its answer is generated
            return context.decided[layer]
        routing = router(x_BSI, context)
        context.decided[layer] = Routing(routing.probs_BSE.detach(), routing.gates_BSE.detach())
        return routing
