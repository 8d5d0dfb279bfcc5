"""The PEFT tuner of mixtures; what a forward pass needs besides the layers is in `forward_tracker`.

PEFT's `register_peft_method` accepts only names of its own enum, so `mosld.adapters` writes PEFT's three tables
directly (peft >= 0.21).
"""

import re
from typing import cast

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn

from mosld.adapters.adapt import experts_per_layer
from mosld.adapters.auxiliary_loss import text_config
from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig
from mosld.adapters.forward_tracker import ForwardTracker
from mosld.adapters.layers import MixtureFeedForward, MixtureLayer, MixtureLinear
from mosld.adapters.router import Router


class MosldModel(BaseTuner):
    """Replaces the target layers and lets a tracker follow the forward passes of the model.

    The auxiliary loss is in the outputs of training forwards (`auxiliary_loss.AuxiliaryLoss`), whoever calls the model.

    Two arguments of the forward pass are the tracker's, for router "domain": `domain` [B], the index of each row's own
    expert (needed in training), and `prompt_mask` [B, S], 1 for the tokens by which the expert is chosen (default:
    those without a label, else all).
    """

    prefix = "mosld_"
    tuner_layer_cls = MixtureLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING  # type: ignore[assignment]

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        if not hasattr(self, "context"):
            # Transformers' own `load_adapter` makes a tuner for each adapter; all layers of a model share one tracker.
            tracker = next((module.context for module in model.modules() if isinstance(module, MixtureLayer)), None)
            self.context = tracker or ForwardTracker()
            if tracker is None:
                self.context.attach(model)
        config = cast(MosldConfig, config)
        self.context.auxiliary_loss.announce(model, config.auxiliary_weight)
        if config.router == "domain":
            self.context.choose_by_prompt(model, vote=config.inference == "vote")

    def _create_and_replace(  # type: ignore[override]
        self,
        config: MosldConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: object,
    ) -> None:
        layer = _layer_of(current_key)
        if not isinstance(target, MixtureLayer):
            kind = MixtureLinear if isinstance(target, nn.Linear) else MixtureFeedForward
            target = kind(target, current_key, layer, self.context)
            setattr(parent, target_name, target)
        single = target_name in config.single_lora_modules
        experts = 1 if single else _experts_of(current_key, config, self.model)
        # With router "domain", one module of a layer has the router of all.
        router = self._domain_router(adapter_name, layer) if config.router == "domain" else None
        assert isinstance(target, MixtureLinear | MixtureFeedForward)
        target.add_mixture(adapter_name, experts, config, routed=not single and router is None)
        if router is not None and not single:
            target.mosld_mixture[adapter_name].layer_routers = [router]
        if adapter_name not in self.active_adapters:
            target.mosld_mixture[adapter_name].requires_grad_(False)

    def _domain_router(self, adapter_name: str, layer: str) -> Router | None:
        for module in self.model.modules():
            if isinstance(module, MixtureLinear) and module.layer == layer and adapter_name in module.mosld_mixture:
                router = cast(Mixture, module.mosld_mixture[adapter_name]).router
                if router is not None:
                    return router
        return None

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """The name of a weight in saved files. PEFT's own rule misses the name where a mixture has modules inside."""
        mixture = ".mosld_mixture."
        if mixture in key:
            return key.replace(f"{mixture}{adapter_name}.", mixture)
        return super()._remove_adapter_name_from_key(key, adapter_name)  # modules_to_save

    def pop_load(self) -> dict[str, dict[str, Tensor]]:
        """As `AuxiliaryLoss.pop_load`."""
        return self.context.auxiliary_loss.pop_load()


def _layer_of(key: str) -> str:
    """``model.layers.3`` of ``model.layers.3.self_attn.q_proj``; the whole key where it has no number."""
    layer = re.match(r"(.*?\.\d+)\.", key)
    return layer[1] if layer else key


def _experts_of(key: str, config: MosldConfig, model: nn.Module) -> int:
    """The number of experts of the module `key`, from the index of its layer."""
    if isinstance(config.experts, int):
        return config.experts
    index = re.search(r"\.(\d+)\.", key)
    # As an attribute, a config gives the depth also where its own name for it is another, as GPT-2's n_layer.
    depth = getattr(text_config(model), "num_hidden_layers", None)
    if index is None or depth is None:
        raise ValueError(f"experts={config.experts} needs numbered layers, {key} has no number; give one number")
    return experts_per_layer(config.experts, depth)[int(index[1])]
