"""The PEFT glue: mixtures as a tuner like LoRA, and the balance loss inside the tuner's own forward.

PEFT's `register_peft_method` takes only names of its own enum, so `mosld.adapters` writes PEFT's three tables directly
(peft >= 0.21).
"""

import re
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers.modeling_outputs import MoeCausalLMOutputWithPast

from mosld.adapters.allocation import experts_per_layer
from mosld.adapters.config import MosldConfig
from mosld.adapters.mixture import Mixture
from mosld.adapters.routing import Routing, RoutingTrace, balance_loss


class MixtureLinear(nn.Module, BaseTunerLayer):
    """A frozen linear layer plus the mixtures of its active adapters."""

    adapter_layer_names = ("mosld_mixture",)
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, key: str, trace: RoutingTrace) -> None:
        """Wrap `base_layer`; `key` is its name in the model, `trace` takes its routings while it is open."""
        super().__init__()
        self.base_layer, self.key, self.trace = base_layer, key, trace
        self.mosld_mixture = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = []

    def add_mixture(self, name: str, experts: int, config: MosldConfig) -> None:
        """Add an adapter of that name. Its weights are fp32 whatever the base is."""
        base: Any = self.get_base_layer()
        mixture = Mixture(base.in_features, base.out_features, experts, config)
        self.mosld_mixture[name] = mixture.to(self.get_base_weight().device).train(self.training)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``W x`` plus the update of each active adapter, in the type of the base's output."""
        y = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return y
        for name in self.active_adapters:
            if name in self.mosld_mixture:
                update, routing = self.mosld_mixture[name](x)
                self.trace.add(self.key, routing)
                y = y + update.to(y.dtype)
        return y

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """A routed update is no fixed matrix: it cannot become a LoRA."""
        return False

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: every token has its own sum of experts, so there is no one weight to merge into."""
        raise ValueError("a mixture routes every token: it cannot be merged into one weight matrix")

    def unmerge(self) -> None:
        """Nothing is ever merged."""


class MosldModel(BaseTuner):
    """The tuner: replaces the target layers and adds the balance loss to `outputs.loss`.

    In training mode with labels, `outputs` is a `MoeCausalLMOutputWithPast` whose `loss` holds
    cross entropy + balance_weight * balance loss and whose `aux_loss` is the balance loss unscaled, so any trainer
    trains a mixture correctly. In eval mode `outputs` is the base model's own.

    """

    prefix = "mosld_"
    tuner_layer_cls = MixtureLinear
    target_module_mapping: Any = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        if not hasattr(self, "trace"):
            self.trace = RoutingTrace()
            self._taken: dict[str, Tensor] = {}

    def _create_and_replace(  # type: ignore[override]
        self,
        config: MosldConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if not isinstance(target, MixtureLinear):
            if not isinstance(target, nn.Linear):
                raise ValueError(f"a mixture adapts nn.Linear only, {current_key} is {type(target).__name__}")
            target = MixtureLinear(target, current_key, self.trace)
            setattr(parent, target_name, target)
        target.add_mixture(adapter_name, _experts_of(current_key, config, self.get_model_config(self.model)), config)
        if adapter_name not in self.active_adapters:
            target.mosld_mixture[adapter_name].requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base model's forward, with the balance loss in `outputs.loss` in training."""
        labels = kwargs.get("labels")
        if labels is None or not self.training:
            return self.model(*args, **kwargs)
        _refuse_reentrant_checkpointing(self.model)
        with self.trace.recording() as routings:
            outputs = self.model(*args, **kwargs)
        config: Any = self.peft_config[self.active_adapters[0]]
        if not routings:  # adapters are disabled
            return outputs
        aux_loss, taken = balance_loss(routings, _token_mask(kwargs.get("attention_mask"), routings))
        for name, count in taken.items():
            self._taken[name] = self._taken.get(name, 0) + count
        weight = 0.0 if config.balance == "none" else config.balance_weight
        # A trainer counts the labels that are predicted: shifted ones where given, else all but each row's first.
        shifted = kwargs.get("shift_labels")
        counted = labels[..., 1:] if shifted is None else shifted
        loss = outputs[0] + weight * _share(counted, kwargs.get("num_items_in_batch")) * aux_loss
        if isinstance(outputs, tuple):
            return (loss, *outputs[1:])
        return MoeCausalLMOutputWithPast(**{**outputs, "loss": loss, "aux_loss": aux_loss})

    def pop_load(self) -> dict[str, Tensor]:
        """By module, the share of assignments of each expert [E] in the training forwards since the last call."""
        load = {name: count / count.sum() for name, count in self._taken.items()}
        self._taken = {}
        return load


def _experts_of(key: str, config: MosldConfig, model_config: dict[str, Any]) -> int:
    """The number of experts of the module `key`, from the index of its layer."""
    if isinstance(config.experts, int):
        return config.experts
    index = re.search(r"\.(\d+)\.", key)
    depth = (model_config.get("text_config") or model_config).get("num_hidden_layers")
    if index is None or depth is None:
        raise ValueError(f"experts={config.experts} needs numbered layers, {key} has no number; give one number")
    return experts_per_layer(config.experts, depth)[int(index[1])]


def _token_mask(attention_mask: Tensor | None, routings: dict[str, Routing]) -> Tensor | None:
    """The mask of non-pad tokens, where the attention mask is one (a 4-D mask says nothing of pads)."""
    tokens = next(iter(routings.values())).probs_BSE.shape[:-1]
    return attention_mask if attention_mask is not None and attention_mask.shape == tokens else None


def _share(labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor | float:
    """This forward's share of the label tokens of the optimiser step.

    A trainer that divides the cross entropy by the tokens of the whole step sums over its micro-batches; without the
    share the balance loss would count once for each micro-batch.
    """
    if num_items_in_batch is None:
        return 1.0
    return (labels != -100).sum() / torch.as_tensor(num_items_in_batch, device=labels.device)


def _refuse_reentrant_checkpointing(model: nn.Module) -> None:
    """Reentrant checkpointing runs the forward without a graph: the balance loss would silently lose its gradient."""
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            options = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
            if options.get("use_reentrant", False):
                raise ValueError(
                    "reentrant gradient checkpointing loses the gradient of the balance loss; "
                    "enable it with use_reentrant=False"
                )
            return
