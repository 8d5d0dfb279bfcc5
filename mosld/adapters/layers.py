"""The modules that stand in the place of the base model's: the frozen layer plus the mixtures of its adapters."""

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mosld.adapters.bank import ExpertBank, Mixture
from mosld.adapters.config import MosldConfig
from mosld.adapters.forward_context import ForwardContext
from mosld.adapters.kernels.fused_linear import products
from mosld.adapters.kernels.grouped import spread, total
from mosld.adapters.router import Router
from mosld.adapters.routing import Routing, one_hot

# PART: A mixture of whole feed-forward blocks (MixLoRA): one router per block, experts on all three projections.
# Shapes: B batch, S sequence, I in and out of the block, F inner width, E experts, K experts per token.


class FeedForwardMixture(nn.Module):
    """``FFN(x) + sum_i g_i (E_i(x) - FFN(x))`` with E_i = down_i(act(gate_i x) * up_i x), each p_i = W_p + s B_i A_i.

    MixLoRA (Li et al. 2024, arXiv 2404.15159) writes sum_i g_i E_i(x), which is the same where the gates sum to 1. In
    this form an untrained block is the base model's to the last bit, and a token without an expert sees the base.
    The base's projections are computed once for all experts: W_gate x and W_up x before the experts differ, W_down,
    which is linear, on the gated sum.
    """

    def __init__(self, block: Any, experts: int, config: MosldConfig) -> None:
        """Make the weights in fp32 on the current default device, in the shapes of the base's block."""
        super().__init__()
        width, inner = block.gate_proj.in_features, block.gate_proj.out_features
        self.router = Router(width, experts, config)
        self.gate = ExpertBank(width, inner, experts, config)
        self.up = ExpertBank(width, inner, experts, config)
        self.down = ExpertBank(inner, width, experts, config)

    def forward(self, block: Any, x_BSI: Tensor, context: ForwardContext) -> tuple[Tensor, Routing]:
        """The block's output with its experts [B, S, I] in the type of the base, and how the tokens were routed."""
        reading = [self.gate.reading(x_BSI), self.up.reading(x_BSI)]
        *logits, gate_z, up_z = products(x_BSI, [*self.router.beside(x_BSI), *reading])
        routing = self.router(x_BSI, context, *logits)
        weights_KBS, slots_KBSE = self._slots(routing.gates_BSE)
        gate_BSF, up_BSF = block.gate_proj(x_BSI), block.up_proj(x_BSI)
        base_BSF = block.act_fn(gate_BSF) * up_BSF
        gate_KBSF = self._project(self.gate, gate_z, slots_KBSE, gate_BSF)
        up_KBSF = self._project(self.up, up_z, slots_KBSE, up_BSF)
        inner_KBSF = block.act_fn(gate_KBSF) * up_KBSF
        changed_KBSF = inner_KBSF - spread(base_BSF, len(slots_KBSE))
        y_BSI = block.down_proj(base_BSF + total(weights_KBS.to(base_BSF.dtype).unsqueeze(-1) * changed_KBSF))
        # Each slot's inner states meet their own expert: the one-hot slots pick it out of the bank. An expert is in one
        # slot of a token at most, so that B sees a token once.
        z_KBSER = self.down.down(inner_KBSF)
        z_BSER = total((weights_KBS.unsqueeze(-1) * slots_KBSE).unsqueeze(-1) * z_KBSER)
        return y_BSI + self.down.up(z_BSER, slots_KBSE.sum(0)).to(y_BSI.dtype), routing

    def _slots(self, gates_BSE: Tensor) -> tuple[Tensor, Tensor]:
        """The K experts of every token as weights [K, B, S] and one-hot rows [K, B, S, E]."""
        experts = gates_BSE.shape[-1]
        config = self.router.config
        weights_BSK, chosen_BSK = gates_BSE.topk(config.top_k or experts, dim=-1)
        slots_KBSE = one_hot(chosen_BSK.movedim(-1, 0), experts).to(weights_BSK)
        return weights_BSK.movedim(-1, 0), slots_KBSE

    @staticmethod
    def _project(bank: ExpertBank, z: Tensor, slots_KBSE: Tensor, base_BSF: Tensor) -> Tensor:
        """``W x + s B_i A_i x`` for the expert of every slot [K, B, S, F]; A_i x is computed once for all slots."""
        update_KBSF = bank.up(bank.by_expert(z), slots_KBSE)
        return spread(base_BSF, len(slots_KBSE)) + update_KBSF.to(base_BSF.dtype)


# PART: The modules that stand in the place of the base model's: the frozen layer plus the mixtures of its adapters.


class MixtureLayer(nn.Module, BaseTunerLayer):
    """What a linear layer and a feed-forward block have in common for PEFT.

    Attributes:
        key: the module's name in the model.
        layer: the part of `key` up to the layer's number.
        context: what the modules of a forward pass share.
        place: where this one leaves its routing.
    """

    adapter_layer_names = ("mosld_mixture",)
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, key: str, layer: str, context: ForwardContext) -> None:
        """Wrap `base_layer`."""
        super().__init__()
        self.base_layer, self.key, self.layer, self.context = base_layer, key, layer, context
        self.place = context.place(key)
        self.mosld_mixture = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = []

    def _add(self, name: str, mixture: nn.Module, like: Tensor) -> None:
        self.mosld_mixture[name] = mixture.to(like.device).train(self.training)

    def _active_mixtures(self) -> list[nn.Module]:
        if self.disable_adapters:
            return []
        return [self.mosld_mixture[name] for name in self.active_adapters if name in self.mosld_mixture]

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """A routed update is no fixed matrix: it cannot become a LoRA."""
        return False

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: every token has its own sum of experts, so there is no one weight to merge into."""
        raise ValueError("a mixture routes every token: it cannot be merged into one weight matrix")

    def unmerge(self) -> None:
        """Nothing is ever merged."""


class MixtureLinear(MixtureLayer):
    """A frozen linear layer plus the mixtures of its active adapters."""

    def add_mixture(self, name: str, experts: int, config: MosldConfig, routed: bool) -> None:
        """Add an adapter of that name. Its weights are fp32 whatever the base is."""
        base: Any = self.get_base_layer()
        self._add(name, Mixture(base.in_features, base.out_features, experts, config, routed), base.weight)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``W x`` plus the update of each active adapter, in the type of the base's output."""
        y = self.base_layer(x, *args, **kwargs)
        for mixture in self._active_mixtures():
            update, routing = mixture(x, self.context, self.layer)
            if routing is not None:
                self.context.leave(self.place, routing)
            y = y + update.to(y.dtype)
        return y


class MixtureFeedForward(MixtureLayer):
    """A frozen feed-forward block with the experts of its active adapter."""

    def add_mixture(self, name: str, experts: int, config: MosldConfig, routed: bool) -> None:
        """Add an adapter of that name. Its weights are fp32 whatever the base is."""
        block: Any = self.get_base_layer()
        missing = [part for part in ("gate_proj", "up_proj", "down_proj", "act_fn") if not hasattr(block, part)]
        if missing:
            raise ValueError(f"{self.key} is no gated feed-forward block: it has no {', '.join(missing)}")
        self._add(name, FeedForwardMixture(block, experts, config), block.gate_proj.weight)

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
        y, routing = mixtures[0](self.base_layer, x, self.context)
        self.context.leave(self.place, routing)
        return y
