"""The mixture of LoRA experts of one linear layer: expert bank and router, no loop over experts, no PEFT.

Shapes: B batch, S sequence, I in, O out, R rank, E experts.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from mosld.adapters.config import MosldConfig
from mosld.adapters.routing import Routing, top_k_routing


class Mixture(nn.Module):
    """``(alpha / r) * sum_i g_i B_i A_i x`` for every token, with A or B shared by all experts or neither.

    The experts stand side by side in one matrix, so that the sum over them is one product: with a shared A,
    ``z = A x`` is computed once and ``[g_1 z, ..., g_N z]`` meets ``[B_1 ... B_N]``.

    Attributes:
        A: [R, I] if shared, else [E*R, I]: expert i has rows i*R to (i+1)*R.
        B: [O, R] if shared, else [O, E*R]: expert i has columns i*R to (i+1)*R. Starts at zero: an untrained
            mixture changes nothing.
        router: [E, I], no bias.
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
        self.router = nn.Parameter(torch.empty(experts, in_features, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A and router at random, B at zero."""
        if self.config.init == "gaussian":
            nn.init.normal_(self.A, std=1 / self.rank)
        else:
            nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.router, a=math.sqrt(5))
        nn.init.zeros_(self.B)

    def forward(self, x_BSI: Tensor) -> tuple[Tensor, Routing]:
        """The update of every token [B, S, O] in the type of A, and how the tokens were routed."""
        x_BSI = x_BSI.to(self.A.dtype)  # once, for router and experts
        routing = self._route(x_BSI)
        gates_BSE = routing.gates_BSE.to(self.A.dtype)
        z_BSER = self._down(x_BSI)
        gated_BSER = gates_BSE.unsqueeze(-1) * z_BSER
        mixed = gated_BSER.sum(-2) if self.config.share == "B" else gated_BSER.flatten(-2)
        return self._scale * linear(mixed, self._dropped(self.B, "B")), routing

    @property
    def _scale(self) -> float:
        return self.config.alpha / self.rank

    def _route(self, x_BSI: Tensor) -> Routing:
        # Under autocast a router in low precision would flip close choices.
        with torch.autocast(x_BSI.device.type, enabled=False):
            return top_k_routing(linear(x_BSI.float(), self.router.float()), self.config.top_k)

    def _down(self, x_BSI: Tensor) -> Tensor:
        """``A_i x`` for each expert [B, S, E, R]; with a shared A it is computed once [B, S, 1, R]."""
        z = linear(self._dropped(x_BSI, "x"), self._dropped(self.A, "A"))
        return z.unflatten(-1, (-1, self.rank))

    def _dropped(self, tensor: Tensor, name: str) -> Tensor:
        """Inverted dropout on what the config names (MoSLD eq. 2): a new mask each forward, none in eval."""
        if self.config.dropout_on != name or not self.config.dropout:
            return tensor
        return dropout(tensor, self.config.dropout, self.training)
