"""The LoRA experts of one linear layer, side by side in two matrices so that no loop runs over them, and their mixture.

No PEFT here. Shapes: B batch, S sequence, I in, O out, R rank, E experts.
"""

import copy
import math
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mosld.adapters.config import MosldConfig
from mosld.adapters.forward_context import AdapterLayer, ForwardContext
from mosld.adapters.kernels.dropout import keep_mask, keep_probability
from mosld.adapters.kernels.fused_linear import MaskedWeight, fused_linear
from mosld.adapters.kernels.grouped import up_by_expert, use_grouped_mm
from mosld.adapters.router import Router
from mosld.adapters.routing import Routing

NORMAL_DEVIATION = 0.02  # of MoLoRA's author code
HEAD_GAMMA = 64.0  # of R-LoRA, as LoRA-GA's
Experts = TypeVar("Experts", bound=nn.Module)


class ExpertBank(nn.Module):
    """The projections A_i and B_i of all experts of one linear layer; all share A, or B, or neither, or both.

    The weights are fp32 whatever the base is. B starts at zero, so an untrained bank changes nothing.

    Attributes:
        A: [R, I] if shared, else [E*R, I]: expert i has rows i*R to (i+1)*R. A buffer where it is never trained.
        B: [O, R] if shared, else [O, E*R]: expert i has columns i*R to (i+1)*R.
        M: [E*R, R] if both are shared, else None: expert i is ``B M_i A`` with rows i*R to (i+1)*R.
    """

    A: Tensor

    def __init__(self, in_features: int, out_features: int, experts: int, config: MosldConfig) -> None:
        super().__init__()
        rank = config.r
        self.experts = experts
        self.rank = rank
        self.config = config
        rows = rank if config.share in ("A", "both") else experts * rank
        columns = rank if config.share in ("B", "both") else experts * rank
        A = torch.empty(rows, in_features, dtype=torch.float32)
        if config.init == "sparse":
            self.register_buffer("A", A)
        else:
            self.A = nn.Parameter(A)
        self.B = nn.Parameter(torch.zeros(out_features, columns, dtype=torch.float32))
        both = config.share == "both"
        self.M = nn.Parameter(torch.empty(experts * rank, rank, dtype=torch.float32)) if both else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw A at random and set B to zero, where the config does not ask for a random B."""
        if self.config.init == "kaiming":
            nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        elif self.config.init == "sparse":
            self._draw_sparse_a()
        else:
            nn.init.normal_(self.A, std=1 / self.rank if self.config.init == "gaussian" else NORMAL_DEVIATION)
        if self.M is not None:
            nn.init.kaiming_uniform_(self.M, a=math.sqrt(5))
        if not self.config.init_weights:
            nn.init.kaiming_uniform_(self.B, a=math.sqrt(5))
        elif self.config.init_b == "random":
            self._draw_heads()
        else:
            nn.init.zeros_(self.B)

    @torch.no_grad()
    def _draw_sparse_a(self) -> None:
        """FlyLoRA (arXiv 2510.08396): in each row of A a share k / E of elements, of N(0, 1/E^2); the others 0."""
        rows, width = self.A.shape
        share = (self.config.top_k or self.experts) / self.experts
        places = torch.rand(rows, width, device=self.A.device).topk(min(width, max(1, round(width * share)))).indices
        values = torch.randn(places.shape, device=self.A.device) / self.experts
        self.A.zero_().scatter_(1, places, values)

    @torch.no_grad()
    def _draw_heads(self) -> None:
        """R-LoRA's multi-head initialisation (arXiv 2502.15455): different B_i, whose mean is 0.

        Departure: the authors subtract ``s mean(B_i) A`` from W, which a frozen base does not allow. Subtracted from
        each B_i it is the same at the start, since gates sum to 1; with a router of zeros the update is then 0 up to
        rounding.
        """
        nn.init.normal_(self.B, std=len(self.B) ** 0.25 / math.sqrt(HEAD_GAMMA * len(self.B)))
        heads = self.B.unflatten(1, (-1, self.rank))
        heads -= heads.mean(1, keepdim=True)

    def down(self, x: Tensor) -> Tensor:
        """``A_i x`` for each expert [..., E, R]; with a shared A it is computed once [..., 1, R].

        In training with dropout x or A is masked; `up` applies the scale.
        """
        return self.by_expert(*fused_linear(x, [self.down_weight(x)]))

    def down_weight(self, x: Tensor) -> MaskedWeight:
        """What `down` multiplies x with, so that it can be computed together with other products of x."""
        return self._masked("A", self.A), keep_mask(x, self.config.dropout) if self._drops("x") else None

    def by_expert(self, z: Tensor) -> Tensor:
        """The result of `down` from that product: [..., E*R] to [..., E, R]."""
        return z.unflatten(-1, (-1, self.rank))

    def up(self, z: Tensor, gates: Tensor | None = None) -> Tensor:
        """``(alpha / r) sum_i g_i B_i z_i`` [..., O] of the result of `down`.

        Args:
            z: ``A_i x`` [..., E, R] or [..., 1, R].
            gates: [..., E]; with the config's top_k, at most so many of a token are not 0. None: all are 1.
        """
        # Scaled before B, where a token has E*R numbers, and not behind it, where it has O. Whichever of A, B and x is
        # masked, the scale of inverted dropout is a factor of the whole update, so here it costs nothing.
        scale = self.config.alpha / self.rank
        if self._drops(self.config.dropout_on):
            scale /= keep_probability(self.config.dropout)
        if self.M is not None:
            z = linear(z.squeeze(-2), self._masked("cores", self.M)).unflatten(-1, (-1, self.rank))
        if self._drops("heads"):
            z = z.expand(*z.shape[:-2], self.experts, self.rank)
            z = z * keep_mask(z, self.config.dropout)
        B = self._masked("B", self.B)
        if gates is None:
            return linear(scale * z.flatten(-2), B)
        gates = scale * gates.to(z.dtype)
        if self.config.share in ("B", "both"):
            return linear((gates.unsqueeze(-1) * z).sum(-2), B)
        k = self.config.top_k
        if k is not None and use_grouped_mm(B, self.experts, self.rank, k):
            return up_by_expert(z, gates, B, k)
        return linear((gates.unsqueeze(-1) * z).flatten(-2), B)

    def _masked(self, name: str, weight: Tensor) -> Tensor:
        """The weight, masked anew in each training forward where the config drops it (MoSLD eq. 2)."""
        return weight * keep_mask(weight, self.config.dropout) if self._drops(name) else weight

    def _drops(self, name: str) -> bool:
        config = self.config
        return self.training and config.dropout > 0 and config.dropout_on == name != "none"

    def untrained_experts(self) -> Tensor:
        """Which experts are as they start and so change nothing [E]: their B is 0, or A or M where B is shared."""
        weight, axis = {"B": (self.A, 0), "both": (self.M, 0)}.get(self.config.share, (self.B, 1))
        assert weight is not None
        return ~weight.unflatten(axis, (self.experts, -1)).movedim(axis, 0).flatten(1).any(-1)


def expert_weights(mixture: nn.Module) -> Iterator[tuple[nn.Module, str, int]]:
    """The weights in which each expert of a mixture has a part of its own: module, name, and the axis of experts."""
    for module in mixture.modules():
        if isinstance(module, Router):
            yield from ((module, name, 0) for name in ("weight", "bias") if getattr(module, name) is not None)
        elif isinstance(module, ExpertBank):
            own = {"A": "B", "B": "A", "both": "M", "none": "AB"}[module.config.share]
            yield from ((module, name, int(name == "B")) for name in own)


def select_experts(weight: Tensor, axis: int, experts: int, selected: Tensor) -> Tensor:
    """The parts of the selected experts (a mask, or indices) of a weight with those of `experts` along `axis`."""
    parts = weight.unflatten(axis, (experts, -1))
    return (parts[selected] if axis == 0 else parts[:, selected]).flatten(axis, axis + 1)


def open_experts(mixture: nn.Module, config: MosldConfig) -> Tensor | None:
    """Which experts take part in eval mode [E]; None: all.

    An expert that was added to a trained mixture has B = 0, and yet it would change the outputs: whatever weight or
    place among the top k it gets, others lose. So its gate is closed: in eval mode it is left out of the softmax, the
    top k and all sums, and the outputs are those from before, bit by bit. In training mode it takes part as any expert
    of a new adapter does, since a closed gate passes no gradient on. The first update of its B opens it in eval mode,
    too. That holds for every router: dense, top-k, SiRA's capacity (which counts the new expert in training), a block's
    (closed while B is 0 in all three projections), and domains (no arg-max, vote or soft share).

    A known compromise: a grown mixture reads its new B in every forward pass in eval mode; on CUDA that waits.
    """
    if not config.grown or getattr(mixture, "kept", None) is not None:
        return None
    banks = [module for module in mixture.modules() if isinstance(module, ExpertBank)]
    untrained_E = torch.stack([bank.untrained_experts() for bank in banks]).all(0)
    untrained_E[: -config.grown] = False
    return ~untrained_E if untrained_E.any() else None


def without_closed(mixture: Experts, kept: Tensor) -> Experts:
    """A mixture of the experts of the mask `kept` alone, whose gates are over all."""
    routers = getattr(mixture, "layer_routers", [])
    memo: dict[int, object] = {}
    for module in [mixture, *routers]:
        memo |= {id(weight): weight for weight in module.parameters()}
        memo |= {id(part.config): part.config for part in module.modules() if isinstance(part, ExpertBank | Router)}
        for part, name, axis in expert_weights(module):
            weight = getattr(part, name)
            memo[id(weight)] = select_experts(weight, axis, len(kept), kept)
    # deepcopy takes what the memo holds in place of a copy.
    narrow = copy.deepcopy(mixture, memo)
    narrow.kept = kept
    for part in [*narrow.modules(), *getattr(narrow, "layer_routers", [])]:
        if isinstance(part, Router):
            part.kept = kept
        elif isinstance(part, ExpertBank):
            part.experts = int(kept.sum())
    return narrow


class Mixture(ExpertBank):
    """``(alpha / r) sum_i g_i B_i A_i x`` for every token: expert bank and router of one linear layer.

    The methods, with p = softmax(W_r x) over all E experts and g the K largest of p divided by their sum:

        mosl       s sum_i g_i B_i (A x)        Zhao et al. 2025 (arXiv 2412.08946), eq. 1 and 3; A is shared
        mosld      as mosl, A' = M * A / (1-p)  eq. 2; M ~ Bernoulli(1-p) per element and training forward
        mosld_b    as mosl, B_i masked so       table 2; A is shared
        mola       s sum_i g_i B_i A_i drop(x)  Gao et al. 2024 (arXiv 2402.08562); nothing is shared
        molora     s sum_i p_i B_i A_i x        Zadouri et al. 2024 (arXiv 2309.05444); nothing is shared
        sira       s sum_i G_i B_i A_i x        Zhu et al. 2023 (arXiv 2311.09179); `routing.capacity_routing`
        hydralora  s sum_i p_i B_i (A x)        Tian et al. 2024 (arXiv 2404.19245); A is shared
        moa        s B_j A_j drop(x)            Feng et al. 2024 (arXiv 2403.03432); `router.Router`
        loramoe    s sum_i p_i B_i A_i drop(x)  Dou et al. 2023 (arXiv 2312.09979); nothing is shared
        rlora      s sum_i p_i B_i drop_i(A x)  Liu et al. 2025 (arXiv 2502.15455); A is shared, a mask for each expert
        comol      s B (sum_i p_i M_i) A x      Cao et al. 2026 (arXiv 2603.00573); A and B are shared, p from A x
        smora      s sum_i g_i b_i a_i x        Zhao et al. 2025 (arXiv 2501.15103); each rank is an expert
        flylora    s sum_i m_i b_i a_i x        Zou et al. 2025 (arXiv 2510.08396); A is frozen, m_i 1 for the K largest

    Departures from MoSLD's paper: eq. 2 prints Mask ~ Bernoulli(p) beside the scale 1 / (1-p); an element is dropped
    with probability p, as its text says. The text drops the update, the equation masks the weight; the equation holds,
    with one mask for all tokens of a forward.

    Attributes:
        router: gives the gates; None for a single LoRA, and where another module of the layer decides (router
            "domain": one router per layer).
        layer_routers: that of the other module, which decides where this one runs first; in a list, so that it is not
            a part of this module.
        kept: as `Router.kept`.
    """

    kept: Tensor | None = None

    def __init__(
        self, in_features: int, out_features: int, experts: int, config: MosldConfig, routed: bool = True
    ) -> None:
        super().__init__(in_features, out_features, experts, config)
        width = config.r if config.router_input == "Ax" else in_features
        self.router = Router(width, experts, config) if routed else None
        self.layer_routers: list[Router] = []

    def forward(
        self, x_BSI: Tensor, context: ForwardContext, layer: AdapterLayer = ("", "")
    ) -> tuple[Tensor, Routing | None]:
        """Compute the update.

        Args:
            layer: name of the adapter and the decoder layer, whose modules share a decision with router "domain".

        Returns:
            The update [B, S, O] in the dtype of A, and the routing where it was decided here.
        """
        kept = None if self.training else open_experts(self, self.config)
        if kept is not None:
            return without_closed(self, kept)(x_BSI, context, layer)
        weights = [] if self.router is None else self.router.fused_logits(x_BSI)
        *logits, z = fused_linear(x_BSI, [*weights, self.down_weight(x_BSI)])
        z = self.by_expert(z)
        routing: Routing | None
        gates_BSE: Tensor | None
        if self.config.router == "domain":
            gates_BSE, routing = self._by_sequence(x_BSI, context, layer)
            if x_BSI.dim() == 2:  # the base model has flattened its tokens, as OPT before its feed-forward layers
                gates_BSE = gates_BSE.squeeze(1).repeat_interleave(len(x_BSI) // len(gates_BSE), dim=0)
        else:
            routing = None if self.router is None else self._by_token(x_BSI, z, context, logits)
            gates_BSE = routing.gates_BSE if routing else None
        if self.kept is not None and gates_BSE is not None:
            gates_BSE = gates_BSE[..., self.kept]
        return self.up(z, gates_BSE), routing

    def _by_token(self, x_BSI: Tensor, z: Tensor, context: ForwardContext, logits: list[Tensor]) -> Routing:
        assert self.router is not None
        if self.config.router == "magnitude":  # of experts of rank 1
            return self.router(x_BSI, context, z.squeeze(-1).float())
        if self.config.router_input == "Ax":
            return self.router(z.squeeze(-2), context)
        return self.router(x_BSI, context, *logits)

    def _by_sequence(
        self, x_BSI: Tensor, context: ForwardContext, layer: AdapterLayer
    ) -> tuple[Tensor, Routing | None]:
        """The gates of each sequence, and the routing where it was decided here.

        The layer's first module decides, in whatever order the model runs them. The expert that a prompt decided is
        kept while its answer is generated.
        """
        if layer in context.decided:
            decided = context.decided[layer]
            return decided.gates_BSE, decided if self.router is not None and layer in context.cached else None
        if context.decoding:
            raise ValueError(
                "past_key_values holds no expert of this mixture of domains: fill the cache with this model and adapter"
            )
        routers = self.layer_routers if self.router is None else [self.router]
        if not routers or (self.router is None and context.owner is None):
            raise ValueError("a mixture of domains decides in a forward pass of the whole model or of its decoder")
        weight = routers[0].weight
        # Only router "magnitude" has none.
        assert weight is not None
        width = weight.shape[-1]
        if x_BSI.dim() != 3 or x_BSI.shape[-1] != width:
            raise ValueError(
                f"{layer[1]}: the first module to run gets {tuple(x_BSI.shape)} and the router reads rows of tokens "
                f"with {width} numbers each; adapt the query, key or value projection of the layer, too"
            )
        routing = routers[0](x_BSI, context)
        context.decided[layer] = Routing(routing.probs_BSE.detach(), routing.gates_BSE)
        return routing.gates_BSE, routing
