"""The modules that stand in the place of the base model's: the frozen layer plus the mixtures of its adapters."""

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mosld.adapters.config import MosldConfig
from mosld.adapters.context import ForwardContext
from mosld.adapters.feed_forward import FeedForwardMixture
from mosld.adapters.mixture import Mixture


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
