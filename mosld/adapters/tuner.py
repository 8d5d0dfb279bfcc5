"""The PEFT tuner of mixtures, which adds the auxiliary loss in its own forward.

PEFT's `register_peft_method` accepts only names of its own enum, so `mosld.adapters` writes PEFT's three tables
directly (peft >= 0.21).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache, reduce
from operator import add
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast, ModelOutput, MoeCausalLMOutputWithPast

from mosld.adapters.adapt import experts_per_layer
from mosld.adapters.config import MosldConfig
from mosld.adapters.forward_context import ForwardContext
from mosld.adapters.layers import NO_MERGE, MixtureFeedForward, MixtureLayer, MixtureLinear, layer_kind
from mosld.adapters.load_balancing import balance_loss
from mosld.adapters.routing import Routing

Outputs = ModelOutput | tuple[Tensor, ...]


class MosldModel(BaseTuner):
    """Replaces the target layers and adds the auxiliary loss to `outputs.loss`.

    In training mode with labels, `outputs` is a `MoeCausalLMOutputWithPast` whose `loss` holds
    cross entropy + weight * auxiliary loss and whose `aux_loss` is the auxiliary loss unscaled, so any trainer trains
    a mixture correctly: the balance loss, or with router "domain" the mean cross entropy of the layers' routers. In
    eval mode `outputs` is the base model's own.

    Two arguments of the forward pass are the tuner's, for router "domain": `domain` [B], the index of each row's own
    expert (needed in training), and `prompt_mask` [B, S], 1 for the tokens by which the expert is chosen (default:
    those without a label, else all).
    """

    prefix = "mosld_"
    tuner_layer_cls = MixtureLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING  # type: ignore[assignment]

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        if "context" in vars(self):
            return
        self._assignments: dict[str, Tensor] = {}
        self._dropped: dict[str, Tensor] = {}
        # Transformers' own `load_adapter` makes a tuner for each adapter; all layers of a model share one context.
        context = next((module.context for module in model.modules() if isinstance(module, MixtureLayer)), None)
        self.context = context or ForwardContext()
        if context is None:
            # The model's own forward, not the tuner's, runs in `generate` and in transformers' `load_adapter`.
            self.context.handle = model.register_forward_pre_hook(self.context.on_forward, with_kwargs=True)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As PEFT's; a model that cannot be adapted is left as it was."""
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
                self._remove_hook()
            for parameter in trained:
                parameter.requires_grad_(True)
            raise

    def _check_merge_allowed(self) -> None:
        raise ValueError(NO_MERGE)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:  # type: ignore[override]
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        self._remove_hook()
        return cast(nn.Module, model)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:  # noqa: ARG002
        """Put a base layer back; PEFT's own expects that it has a weight, which a feed-forward block has not."""
        setattr(parent, child_name, new_module)

    def _remove_hook(self) -> None:
        if self.context.handle is not None:
            self.context.handle.remove()

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
        single = target_name in config.single_lora_modules
        experts = 1 if single else _experts_of(current_key, config, self.model)
        assert isinstance(target, MixtureLinear | MixtureFeedForward)
        target.add_mixture(adapter_name, experts, config, routed=not single)
        self.context.votes_across_layers |= config.router == "domain" and config.inference == "vote"
        if adapter_name not in self.active_adapters:
            target.mosld_mixture[adapter_name].requires_grad_(False)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """The name of a weight in saved files. PEFT's own rule misses the name where a mixture has modules inside."""
        mixture = ".mosld_mixture."
        if mixture in key:
            return key.replace(f"{mixture}{adapter_name}.", mixture)
        return super()._remove_adapter_name_from_key(key, adapter_name)  # modules_to_save

    def forward(
        self, *args: object, domain: Tensor | None = None, prompt_mask: Tensor | None = None, **kwargs: Any
    ) -> Outputs:
        """The base model's forward, with the auxiliary loss in `outputs.loss` in training."""
        if prompt_mask is None:
            prompt_mask = _prompt_of(kwargs.get("labels"), kwargs.get("input_ids"))
        self.context.set_inputs(domain, prompt_mask)
        if kwargs.get("labels") is not None and self.training:
            return self._forward_with_auxiliary_loss(*args, **kwargs)
        return self.model(*args, **kwargs)

    def _forward_with_auxiliary_loss(self, *args: object, **kwargs: Any) -> Outputs:
        _refuse_reentrant_checkpointing(self.model)
        with self.context.recording() as records:
            outputs = self.model(*args, **kwargs)
        if not records:  # adapters are disabled
            return outputs
        # A trainer counts the labels that are predicted: shifted ones where given, else all but each row's first.
        shift_labels = kwargs.get("shift_labels")
        predicted = kwargs["labels"][..., 1:] if shift_labels is None else shift_labels
        share = _share(predicted, kwargs.get("num_items_in_batch"))
        loss, aux_losses = outputs[0], []
        for adapter, routings in records.items():  # several adapters can be active
            config = cast(MosldConfig, self.peft_config[adapter])
            aux_losses.append(self._auxiliary_loss(routings, config, "" if len(records) == 1 else f".{adapter}"))
            loss = loss + config.auxiliary_weight * share * aux_losses[-1]
        if isinstance(outputs, tuple):
            return (loss, *outputs[1:])
        return _with_aux_loss(type(outputs))(**{**outputs, "loss": loss, "aux_loss": reduce(add, aux_losses)})

    def _auxiliary_loss(self, routings: dict[str, Routing], config: MosldConfig, suffix: str = "") -> Tensor:
        router_losses = [routing.loss for routing in routings.values() if routing.loss is not None]
        formula = "switch" if config.balance == "none" else config.balance  # the load is counted in any case
        mask_BS = None if router_losses else self.context.mask_BS
        balance, counts = balance_loss(routings, mask_BS, formula)
        for module, count in counts.items():
            name = module + suffix
            self._assignments[name] = self._assignments.get(name, 0) + count
        for module, routing in routings.items():
            name = module + suffix
            if routing.chosen_BSE is not None:  # experts have a capacity; pads never choose
                self._dropped[name] = self._dropped.get(name, 0) + routing.dropped_BS.sum()
        return torch.stack(router_losses).mean() if router_losses else balance

    def pop_load(self) -> dict[str, dict[str, Tensor]]:
        """The load by module in the training forwards since the last call.

        Returns:
            The name of a module is followed by that of the adapter where several were active at once.
            "expert_load": the share of assignments of each expert [E]; with router "capacity" also "dropped": the
            share of assignments that full experts turned away [].
        """
        load = {"expert_load": {name: count / count.sum().clamp(min=1) for name, count in self._assignments.items()}}
        if self._dropped:
            load["dropped"] = {name: count / self._assignments[name].sum().clamp(min=1) for name, count in self._dropped.items()}
        self._assignments = {}
        self._dropped = {}
        return load


@cache
def _with_aux_loss(kind: type[ModelOutput]) -> type[ModelOutput]:
    """A class of outputs with the field `aux_loss` beside those of the base model's class."""
    if kind is CausalLMOutputWithPast:
        return MoeCausalLMOutputWithPast
    if "aux_loss" in {option.name for option in fields(kind)}:
        return kind
    namespace = {"__annotations__": {"aux_loss": Tensor | None}, "aux_loss": None, "__module__": kind.__module__}
    return dataclass(type(kind.__name__, (kind,), namespace))


def _prompt_of(labels: Tensor | None, ids: Tensor | None) -> Tensor | None:
    """The tokens of each row without a label; all tokens of a row where every token has one."""
    if labels is None or ids is None or labels.shape != ids.shape:
        return None
    unlabelled = labels == -100
    return unlabelled | ~unlabelled.any(-1, keepdim=True)


def _layer_of(key: str) -> str:
    """``model.layers.3`` of ``model.layers.3.self_attn.q_proj``; the whole key where it has no number."""
    layer = re.match(r"(.*?\.\d+)\.", key)
    return layer[1] if layer else key


def _experts_of(key: str, config: MosldConfig, model: nn.Module) -> int:
    """The number of experts of the module `key`, from the index of its layer and the length of the list it is in."""
    if isinstance(config.experts, int):
        return config.experts
    place = re.match(r"(.*?)\.(\d+)\.", key)
    if place is None:
        raise ValueError(f"experts={config.experts} needs numbered layers, {key} has no number; give one number")
    depth = len(list(model.get_submodule(place[1]).children()))
    return experts_per_layer(config.experts, depth)[int(place[2])]


def _share(labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor | float:
    """This forward's share of the label tokens of the optimizer step.

    A trainer that divides the cross entropy by the tokens of the whole step sums over its micro-batches; without the
    share the auxiliary loss would count once for each micro-batch.
    """
    if num_items_in_batch is None:
        return 1.0
    return (labels != -100).sum() / torch.as_tensor(num_items_in_batch, device=labels.device)


def _refuse_reentrant_checkpointing(model: nn.Module) -> None:
    """Reentrant checkpointing runs the forward without a graph: the auxiliary loss would silently lose its gradient."""
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            options = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
            if options.get("use_reentrant", False):
                raise ValueError(
                    "reentrant gradient checkpointing loses the gradient of the balance loss; "
                    "enable it with use_reentrant=False"
                )
            return
