"""The PEFT tuner of mixtures; what a forward pass needs besides the layers is in `forward_tracker`.

PEFT's `register_peft_method` accepts only names of its own enum, so `mosld.adapters` writes PEFT's three tables
directly (peft >= 0.21).
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn

from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig, experts_of_module
from mosld.adapters.forward_tracker import ForwardTracker
from mosld.adapters.layers import NO_MERGE, MixtureFeedForward, MixtureLayer, MixtureLinear, layer_kind
from mosld.adapters.router import Router
from mosld.adapters.step_load import AllReduce, Key, move_biases

ON_DISK = (
    "device_map has put parts of the base on disk ({names}), where PEFT adds no layers; adapt the model first, then "
    "offload it with accelerate's disk_offload (docs/how-to/adapters_elsewhere.md)"
)


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
        if "context" not in vars(self):
            # Transformers' own `load_adapter` makes a tuner for each adapter; all layers of a model share one tracker.
            tracker = next((module.context for module in model.modules() if isinstance(module, MixtureLayer)), None)
            self.context = tracker or ForwardTracker()
            if tracker is None:
                self.context.attach(model)
        config = cast(MosldConfig, config)
        self.context.auxiliary_loss.announce(model, config.auxiliary_weight)
        if config.router == "domain":
            self.context.choose_by_prompt(model, vote=config.inference == "vote")

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As PEFT's; a model that cannot be adapted is left as it was.

        Raises:
            ValueError: parts of the base lie on disk, or as PEFT's.
        """
        on_disk = [
            name or "all" for name, device in (getattr(model, "hf_device_map", None) or {}).items() if device == "disk"
        ]
        if on_disk:
            raise ValueError(ON_DISK.format(names=", ".join(on_disk[:3])))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except Exception:
            layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, MixtureLayer)}
            for name, layer in layers.items():
                layer.delete_adapter(adapter_name)
                if not layer.mosld_mixture:
                    model.set_submodule(name, layer.base_layer)
            if not any(layer.mosld_mixture for layer in layers.values()):
                self.context.detach(model)
            for parameter in trained:
                parameter.requires_grad_(True)
            raise

    def _check_merge_allowed(self) -> None:
        raise ValueError(NO_MERGE)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:  # type: ignore[override]
        model = cast(nn.Module, super()._unload_and_optionally_merge(*args, **kwargs))
        self.context.detach(model)
        return model

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Put a base layer back; PEFT's own expects that it has a weight, which a feed-forward block has not."""
        setattr(parent, child_name, new_module)

    @contextmanager
    def _enable_peft_forward_hooks(self, *_: object, **kwargs: object) -> Iterator[None]:
        """Refuse what PEFT asks of tuners with mixed batches here; it ignores the argument for all others."""
        if kwargs.get("adapter_names") is not None:
            raise ValueError("adapter_names: a mixture has one adapter for all rows of a batch; use set_adapter(name)")
        yield

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Cast an adapter's weights, which are fp32 else, to the dtype of the base where the user asks for that."""
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        for layer in self.model.modules() if not autocast_adapter_dtype else ():
            if isinstance(layer, MixtureLayer) and adapter_name in layer.mosld_mixture:
                dtype = layer.reference_weight.dtype
                layer.mosld_mixture[adapter_name].to(dtype if dtype.is_floating_point else torch.float32)

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
            target = layer_kind(target, current_key)(target, current_key, layer, self.context)
            setattr(parent, target_name, target)
        single = target_name in config.plain_modules
        experts = 1 if single else experts_of_module(current_key, config, self.model)
        # With router "domain", one module of a layer has the router of all.
        router = self._domain_router(adapter_name, target) if config.router == "domain" else None
        assert isinstance(target, MixtureLinear | MixtureFeedForward)
        target.add_mixture(adapter_name, experts, config, routed=not single and router is None)
        if router is not None and not single:
            cast(Mixture, target.mosld_mixture[adapter_name]).layer_routers = [router]
        if adapter_name not in self.active_adapters:
            target.mosld_mixture[adapter_name].requires_grad_(False)

    def _domain_router(self, adapter_name: str, target: MixtureLayer) -> Router | None:
        """The router of the other modules of the target's layer."""
        for module in self.model.modules():
            # The target itself may have a mixture of that name, which is about to be replaced.
            if isinstance(module, MixtureLinear) and module.layer == target.layer and module is not target:
                mixtures = {name: cast(Mixture, mixture) for name, mixture in module.mosld_mixture.items()}
                if adapter_name in mixtures and mixtures[adapter_name].router is not None:
                    return mixtures[adapter_name].router
        return None

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """The name of a weight in saved files. PEFT's own rule misses the name where a mixture has modules inside."""
        mixture = ".mosld_mixture."
        if mixture in key:
            return key.replace(f"{mixture}{adapter_name}.", mixture)
        return super()._remove_adapter_name_from_key(key, adapter_name)  # modules_to_save

    @contextmanager
    def over_step(
        self, count_ahead: Callable[[], None], all_reduce: AllReduce = lambda tensor: tensor
    ) -> Iterator[Callable[[], None]]:
        """The forward and backward passes of one optimiser step, for balances that look at whole steps.

        Trainers that do not call this balance each forward pass by itself (balance_over "step"), or not at all
        (balance "bias").

        Args:
            count_ahead: runs the step's forward passes without gradients; called with balance_over "step".
            all_reduce: sums a tensor over all processes.

        Yields:
            What to call after the optimiser's update: it moves the biases.
        """
        load = self.context.auxiliary_loss.step_load
        routers = {key: router for key, router in self._routers() if router.config.balance == "bias"}
        counted = {key: router for key, router in self._routers() if router.config.balance_over == "step"}
        if counted:
            with load.counting():
                count_ahead()
        with load.knowing(load.take(counted, all_reduce)), load.counting(bool(routers)):
            yield lambda: move_biases(routers, load.take(routers, all_reduce))

    def _routers(self) -> Iterator[tuple[Key, Router]]:
        for layer in self.model.modules():
            for name, mixture in layer.mosld_mixture.items() if isinstance(layer, MixtureLayer) else ():
                router = getattr(mixture, "router", None)
                if router is not None:
                    yield (name, layer.key), router

    def pop_load(self) -> dict[str, dict[str, Tensor]]:
        """As `AuxiliaryLoss.pop_load`."""
        return self.context.auxiliary_loss.pop_load()


def _layer_of(key: str) -> str:
    """``model.layers.3`` of ``model.layers.3.self_attn.q_proj``; the whole key where it has no number."""
    layer = re.match(r"(.*?\.\d+)\.", key)
    return layer[1] if layer else key
