"""The mixture of LoRA experts of one linear layer: expert bank and router, no PEFT.

Shapes: B batch, S sequence, I in, O out, E experts.
"""

from torch import Tensor

from mosld.adapters.bank import ExpertBank
from mosld.adapters.config import MosldConfig
from mosld.adapters.context import ForwardContext
from mosld.adapters.products import products
from mosld.adapters.router import Router
from mosld.adapters.routing import Routing


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
