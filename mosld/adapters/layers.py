"""The modules that replace the base model's: a frozen layer or feed-forward block with the mixtures of its adapters.

Shapes: B batch, S sequence, I in (and out of a block), F inner width of a block, E experts, K experts per token.
"""

from collections.abc import Callable
from typing import Protocol, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mosld.adapters.bank import ExpertBank, Mixture, open_experts, without_closed
from mosld.adapters.config import MosldConfig
from mosld.adapters.forward_context import ForwardContext
from mosld.adapters.forward_tracker import ForwardTracker
from mosld.adapters.kernels.fused_linear import fused_linear
from mosld.adapters.kernels.grouped import expand_slots, sum_slots
from mosld.adapters.router import Router
from mosld.adapters.routing import Routing, one_hot

NO_MERGE = "a mixture routes every token: it cannot be merged into one weight matrix"


class GatedBlock(Protocol):
    """A feed-forward block ``down_proj(act_fn(gate_proj(x)) * up_proj(x))``."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear
    act_fn: Callable[[Tensor], Tensor]


GATED_PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")


class FeedForwardMixture(nn.Module):
    """MixLoRA (Li et al. 2024, arXiv 2404.15159): a mixture of whole feed-forward blocks with one router.

    ``FFN(x) + sum_i g_i (E_i(x) - FFN(x))`` with E_i = down_i(act(gate_i x) * up_i x), each p_i = W_p + s B_i A_i, and
    g the K largest of softmax(W_r x) divided by their sum. Experts share the block's frozen weights, and A or B of each
    projection only where the config says so (paper: neither).

    Departure: the paper writes sum_i g_i E_i(x), which is the same, since the gates sum to 1. In this form an untrained
    block is the base model's to the last bit. W_gate x and W_up x are computed once for all experts, and W_down, which
    is linear, once on the gated sum.

    Attributes:
        kept: as `Router.kept`.
    """

    kept: Tensor | None = None

    def __init__(self, block: GatedBlock, experts: int, config: MosldConfig) -> None:
        super().__init__()
        if config.share == "both" or config.router_input == "Ax" or config.router == "magnitude":
            raise ValueError("share='both', router_input='Ax' and router='magnitude' are for single linear layers")
        width = block.gate_proj.in_features
        inner = block.gate_proj.out_features
        self.router = Router(width, experts, config)
        self.gate = ExpertBank(width, inner, experts, config)
        self.up = ExpertBank(width, inner, experts, config)
        self.down = ExpertBank(inner, width, experts, config)

    def forward(self, block: GatedBlock, x_BSI: Tensor, context: ForwardContext) -> tuple[Tensor, Routing]:
        """The block's output with its experts [B, S, I] in the dtype of the base, and the routing."""
        kept = None if self.training else open_experts(self, self.router.config)
        if kept is not None:
            return without_closed(self, kept)(block, x_BSI, context)
        weights = [*self.router.fused_logits(x_BSI), self.gate.down_weight(x_BSI), self.up.down_weight(x_BSI)]
        *logits, gate_z, up_z = fused_linear(x_BSI, weights)
        routing = self.router(x_BSI, context, *logits)
        gates_BSE = routing.gates_BSE if self.kept is None else routing.gates_BSE[..., self.kept]
        weights_KBS, slots_KBSE = self._slots(gates_BSE)
        gate_BSF = block.gate_proj(x_BSI)
        up_BSF = block.up_proj(x_BSI)
        base_BSF = block.act_fn(gate_BSF) * up_BSF
        gate_KBSF = self._project(self.gate, gate_z, slots_KBSE, gate_BSF)
        up_KBSF = self._project(self.up, up_z, slots_KBSE, up_BSF)
        inner_KBSF = block.act_fn(gate_KBSF) * up_KBSF
        change_KBSF = inner_KBSF - expand_slots(base_BSF, len(slots_KBSE))
        change_BSF = sum_slots(weights_KBS.to(base_BSF.dtype).unsqueeze(-1) * change_KBSF)
        y_BSI = block.down_proj(base_BSF + change_BSF)
        # The one-hot slots pick each slot's expert out of the bank. An expert is in one slot of a token at most, so
        # that B is multiplied once per token.
        z_KBSER = self.down.down(inner_KBSF)
        z_BSER = sum_slots((weights_KBS.unsqueeze(-1) * slots_KBSE).unsqueeze(-1) * z_KBSER)
        return y_BSI + self.down.up(z_BSER.to(self.down.B.dtype), slots_KBSE.sum(0)).to(y_BSI.dtype), routing

    def _slots(self, gates_BSE: Tensor) -> tuple[Tensor, Tensor]:
        """The K experts of every token as weights [K, B, S] and one-hot rows [K, B, S, E]."""
        experts = gates_BSE.shape[-1]
        weights_BSK, chosen_BSK = gates_BSE.topk(self.router.config.top_k or experts, dim=-1)
        slots_KBSE = one_hot(chosen_BSK.movedim(-1, 0), experts).to(weights_BSK)
        return weights_BSK.movedim(-1, 0), slots_KBSE

    @staticmethod
    def _project(bank: ExpertBank, z: Tensor, slots_KBSE: Tensor, base_BSF: Tensor) -> Tensor:
        """``W x + s B_i A_i x`` for the expert of every slot [K, B, S, F]; A_i x is computed once for all slots."""
        update_KBSF = bank.up(bank.by_expert(z), slots_KBSE)
        return expand_slots(base_BSF, len(slots_KBSE)) + update_KBSF.to(base_BSF.dtype)


class MixtureLayer(nn.Module, BaseTunerLayer):
    """What PEFT needs of a linear layer and of a feed-forward block with mixtures.

    Attributes:
        layer: the part of `key` up to the layer's number.
        context: gives the state of the forward pass under way.
    """

    adapter_layer_names = ("mosld_mixture",)
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, key: str, layer: str, context: ForwardTracker) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.key = key
        self.layer = layer
        self.context = context
        self.slot = context.slot(key)
        self.mosld_mixture = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = []

    @property
    def reference_weight(self) -> Tensor:
        """A weight of the base, whose device the mixtures share."""
        return cast(nn.Linear, self.get_base_layer()).weight

    @property
    def in_features(self) -> int:
        return cast(nn.Linear, self.get_base_layer()).in_features

    @property
    def out_features(self) -> int:
        return cast(nn.Linear, self.get_base_layer()).out_features

    def _add(self, name: str, mixture: nn.Module) -> None:
        self.mosld_mixture[name] = mixture.train(self.training)
        self._move_adapter_to_device_of_base_layer(name)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """As PEFT's, but the weights keep their dtype; those on the meta device stay there until they are loaded."""
        if adapter_name not in self.mosld_mixture:
            return
        mixture = self.mosld_mixture[adapter_name]
        if not any(parameter.is_meta for parameter in mixture.parameters()):
            mixture.to(device or self.reference_weight.device)

    def _active_mixtures(self) -> list[tuple[str, nn.Module]]:
        if self.disable_adapters:
            return []
        return [(name, self.mosld_mixture[name]) for name in self.active_adapters if name in self.mosld_mixture]

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """A routed update is no fixed matrix, so it cannot become a LoRA."""
        return False

    def merge(self, *args: object, **kwargs: object) -> None:
        """Refuse: every token has its own sum of experts, so there is no one weight to merge into."""
        raise ValueError(NO_MERGE)

    def unmerge(self) -> None:
        """Do nothing: nothing is ever merged."""


def layer_kind(module: nn.Module, key: str) -> type["MixtureLinear | MixtureFeedForward"]:
    """The kind of layer that adapts a module.

    Raises:
        ValueError: none can; the message has the module's name and class.
    """
    if any(isinstance(part, BaseTunerLayer) for part in module.modules()):
        raise ValueError(f"{key} carries an adapter already; take a fresh base model, or unload() that adapter first")
    if isinstance(module, nn.Linear):
        return MixtureLinear
    kind = type(module).__name__
    missing = [part for part in GATED_PARTS if not hasattr(module, part)]
    if len(missing) == len(GATED_PARTS):
        raise ValueError(f"{key} is a {kind}; only nn.Linear and gated feed-forward blocks can be adapted")
    if missing:
        raise ValueError(f"{key} ({kind}) is no gated feed-forward block: it has no {', '.join(missing)}")
    return MixtureFeedForward


class MixtureLinear(MixtureLayer):
    """A frozen linear layer with the mixtures of its active adapters."""

    def add_mixture(self, name: str, experts: int, config: MosldConfig, routed: bool) -> None:
        """Add an adapter; a mixture that is not `routed` has no router of its own."""
        self._add(name, Mixture(self.in_features, self.out_features, experts, config, routed))

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """``W x`` plus the update of each active adapter, in the dtype of the base's output."""
        y = self.base_layer(x, *args, **kwargs)
        context = self.context.current or ForwardContext()
        for name, mixture in self._active_mixtures():
            update, routing = mixture(x, context, (name, self.layer))
            if routing is not None:
                context.record(self.slot, name, cast(Mixture, mixture).config, routing)
            y = y + update.to(y.dtype)
        return y


class MixtureFeedForward(MixtureLayer):
    """A frozen feed-forward block with the experts of its active adapter."""

    def add_mixture(self, name: str, experts: int, config: MosldConfig, routed: bool) -> None:
        """Add an adapter; a block always has a router."""
        self._add(name, FeedForwardMixture(self._block, experts, config))

    @property
    def _block(self) -> GatedBlock:
        return cast(GatedBlock, self.get_base_layer())

    @property
    def reference_weight(self) -> Tensor:
        return self._block.gate_proj.weight

    @property
    def in_features(self) -> int:
        return self._block.gate_proj.in_features

    @property
    def out_features(self) -> int:
        return self._block.down_proj.out_features

    def forward(self, x: Tensor) -> Tensor:
        """The block with the experts of the active adapter.

        Raises:
            ValueError: several adapters are active: blocks, unlike updates of a weight, cannot be added.
        """
        mixtures = self._active_mixtures()
        if len(mixtures) > 1:
            raise ValueError(f"{self.key}: feed-forward experts of several adapters cannot be active at once")
        if not mixtures:
            return self.base_layer(x)
        name, mixture = mixtures[0]
        context = self.context.current or ForwardContext()
        y, routing = mixture(self.base_layer, x, context)
        context.record(self.slot, name, cast(FeedForwardMixture, mixture).router.config, routing)
        return y
