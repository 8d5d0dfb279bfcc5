"""The PEFT tuner of mixtures, which adds the auxiliary loss in its own forward.

PEFT's `register_peft_method` accepts only names of its own enum, so `mosld.adapters` writes PEFT's three tables
directly (peft >= 0.21).
"""

import re
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput, MoeCausalLMOutputWithPast

from mosld.adapters.adapt import experts_per_layer
from mosld.adapters.config import MosldConfig
from mosld.adapters.forward_context import ForwardContext
from mosld.adapters.layers import MixtureFeedForward, MixtureLayer, MixtureLinear
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
        if hasattr(self, "context"):
            return
        self._assignments: dict[str, Tensor] = {}
        self._dropped: dict[str, Tensor] = {}
        self._routers: set[tuple[str, str]] = set()
        # Transformers' own `load_adapter` makes a tuner for each adapter; all layers of a model share one context.
        context = next((module.context for module in model.modules() if isinstance(module, MixtureLayer)), None)
        self.context = context or ForwardContext()
        if context is None:
            # The model's own forward, not the tuner's, runs in `generate` and in transformers' `load_adapter`.
            model.register_forward_pre_hook(self.context.on_forward, with_kwargs=True)

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
        experts = 1 if single else _experts_of(current_key, config, self.get_model_config(self.model))
        # With router "domain", one module of a layer decides for all.
        routed = not single and (config.router != "domain" or (adapter_name, layer) not in self._routers)
        assert isinstance(target, MixtureLinear | MixtureFeedForward)
        target.add_mixture(adapter_name, experts, config, routed)
        self._routers.add((adapter_name, layer))
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
        with self.context.recording() as routings:
            outputs = self.model(*args, **kwargs)
        if not routings:  # adapters are disabled
            return outputs
        config = cast(MosldConfig, self.peft_config[self.active_adapters[0]])
        aux_loss = self._auxiliary_loss(routings, config)
        # A trainer counts the labels that are predicted: shifted ones where given, else all but each row's first.
        shift_labels = kwargs.get("shift_labels")
        predicted = kwargs["labels"][..., 1:] if shift_labels is None else shift_labels
        share = _share(predicted, kwargs.get("num_items_in_batch"))
        loss = outputs[0] + config.auxiliary_weight * share * aux_loss
        if isinstance(outputs, tuple):
            return (loss, *outputs[1:])
        return MoeCausalLMOutputWithPast(**{**outputs, "loss": loss, "aux_loss": aux_loss})

    def _auxiliary_loss(self, routings: dict[str, Routing], config: MosldConfig) -> Tensor:
        router_losses = [routing.loss for routing in routings.values() if routing.loss is not None]
        formula = "switch" if config.balance == "none" else config.balance  # the load is counted in any case
        mask_BS = None if router_losses else self.context.mask_BS
        balance, counts = balance_loss(routings, mask_BS, formula)
        for name, count in counts.items():
            self._assignments[name] = self._assignments.get(name, 0) + count
        for name, routing in routings.items():
            if routing.chosen_BSE is not None:  # experts have a capacity; pads never choose
                self._dropped[name] = self._dropped.get(name, 0) + routing.dropped_BS.sum()
        return torch.stack(router_losses).mean() if router_losses else balance

    def pop_load(self) -> dict[str, dict[str, Tensor]]:
        """The load by module in the training forwards since the last call.

        Returns:
            "expert_load": the share of assignments of each expert [E]; with router "capacity" also "dropped": the
            share of assignments that full experts turned away [].
        """
        load = {"expert_load": {name: count / count.sum() for name, count in self._assignments.items()}}
        if self._dropped:
            load["dropped"] = {name: count / self._assignments[name].sum() for name, count in self._dropped.items()}
        self._assignments = {}
        self._dropped = {}
        return load


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


def _experts_of(key: str, config: MosldConfig, model_config: dict[str, Any]) -> int:
    """The number of experts of the module `key`, from the index of its layer."""
    if isinstance(config.experts, int):
        return config.experts
    index = re.search(r"\.(\d+)\.", key)
    depth = (model_config.get("text_config") or model_config).get("num_hidden_layers")
    if index is None or depth is None:
        raise ValueError(f"experts={config.experts} needs numbered layers, {key} has no number; give one number")
    return experts_per_layer(config.experts, depth)[int(index[1])]


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
