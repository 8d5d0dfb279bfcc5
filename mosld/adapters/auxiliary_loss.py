"""The auxiliary loss of the active adapters in a model's outputs, and the load of their experts."""

import dataclasses
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast, ModelOutput, MoeCausalLMOutputWithPast

from mosld.adapters.config import MosldConfig
from mosld.adapters.forward_context import ForwardContext
from mosld.adapters.load_balancing import balance_loss, localised_loss, real_tokens
from mosld.adapters.routing import Routing
from mosld.adapters.step_load import StepLoad
from mosld.config.method_checks import LOAD_LOSSES

ROUTER_LOGITS = "output_router_logits"  # by which trainers of TRL ask a model for `outputs.aux_loss`
ROUTER_WEIGHT = "router_aux_loss_coef"  # of the model's config, what they multiply it with
LOST_LOSS = (
    "the loss that was differentiated holds no auxiliary loss of the adapter (weight {weight}): it was computed from "
    "the outputs and not from outputs.loss, as with label_smoothing_factor or compute_loss_func of transformers' "
    "Trainer and in TRL's RewardTrainer. Add {weight} * outputs.aux_loss to it, which router 'domain' has where the "
    "forward gets domain=; or train without it: balance_weight=0 (with router 'domain' router_weight=0)."
)

RoutingsByAdapter = dict[str, tuple[MosldConfig, dict[str, Routing]]]
"""By adapter its config, and its routings by module."""


class AuxiliaryLoss:
    """Adds the auxiliary loss to outputs: the balance loss, or with router "domain" the routers' mean cross entropy.

    In training mode with labels `outputs.loss` holds each adapter's loss times its weight. `outputs.aux_loss` is there
    in every training forward, unscaled, for trainers that compute the loss themselves; where one leaves it out, the
    first backward pass warns of it. In eval mode outputs are the base model's own, unless the caller asks for more.

    Attributes:
        weight: what trainers multiply `outputs.aux_loss` with.
        step_load: the load in the whole optimiser step, for the adapters whose balance needs that.
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self._announced = False
        self._warned = False
        # By adapter and module.
        self.step_load = StepLoad()
        self._assignments: dict[tuple[str, str], Tensor] = {}
        self._dropped: dict[tuple[str, str], Tensor] = {}

    def announce(self, model: nn.Module, weight: float) -> None:
        """Tell trainers by the model's config, as models with experts do, that outputs have an auxiliary loss."""
        config = text_config(model)
        if not isinstance(config, PretrainedConfig):  # no model of transformers
            return
        self._announced |= not hasattr(config, ROUTER_LOGITS)
        if self._announced and not self.weight:
            setattr(config, ROUTER_LOGITS, False)
            setattr(config, ROUTER_WEIGHT, weight)
        self.weight = getattr(config, ROUTER_WEIGHT, 0.0)

    def retract(self, model: nn.Module) -> None:
        """Restore the model's config."""
        if self._announced:
            for key in (ROUTER_LOGITS, ROUTER_WEIGHT):
                delattr(text_config(model), key)
        self._announced = False
        self.weight = 0.0

    def take_request(self, kwargs: dict[str, Any]) -> bool:
        """Whether the caller asks for `outputs.aux_loss`; a base model without experts does not see the question."""
        requested = bool(kwargs.get(ROUTER_LOGITS))
        if self._announced:
            kwargs.pop(ROUTER_LOGITS, None)
            if "fused_lm_head" in kwargs:
                kwargs[ROUTER_LOGITS] = False  # else TRL's head reads the request from the model's config
        return requested

    def add(
        self,
        model: nn.Module,
        context: ForwardContext,
        kwargs: Mapping[str, Any],
        outputs: object,
        routings: RoutingsByAdapter,
    ) -> object:
        """The outputs with the auxiliary loss.

        Args:
            model: the base model, or its decoder where that is called alone.
        """
        if not model.training and not context.wants_auxiliary_loss:
            return outputs
        # Without labels and domains, a mixture of domains in training is not told which expert is right.
        known = {
            adapter: (config, own)
            for adapter, (config, own) in routings.items()
            if (config.router != "domain" or any(routing.loss is not None for routing in own.values()))
            and (
                config.balance != "localised" or context.domain_B is not None or (context.supervised and model.training)
            )
        }
        share = _share(kwargs.get("labels"), kwargs.get("shift_labels"), kwargs.get("num_items_in_batch"))
        losses = [
            (config.auxiliary_weight, self._of_adapter(adapter, context, config, own, share))
            for adapter, (config, own) in known.items()
        ]
        if losses:
            outputs = self._with_losses(model, share, outputs, losses)
        silenced = self._announced and self.weight and not getattr(text_config(model), ROUTER_WEIGHT)
        if model.training and not silenced and not self._warned and not torch.compiler.is_compiling():
            self._watch(outputs, max(config.auxiliary_weight for config, _ in routings.values()), losses)
        return outputs

    def _with_losses(
        self, model: nn.Module, share: Tensor | float, outputs: object, losses: list[tuple[float, Tensor]]
    ) -> object:
        loss = _loss_of(outputs)
        if loss is not None and model.training:
            for weight, auxiliary in losses:
                loss = loss + weight * share * auxiliary
            outputs = _with_loss(outputs, loss)
        if isinstance(outputs, ModelOutput):
            outputs = _with_auxiliary_loss(outputs, self._for_trainers(losses, outputs.get("aux_loss")))
        return outputs

    def _for_trainers(self, losses: list[tuple[float, Tensor]], of_base: Tensor | None) -> Tensor:
        """What, times `weight`, is the sum of all losses; of one adapter it is the loss unscaled."""
        if of_base is None and (len(losses) == 1 or not self.weight):
            return losses[0][1]
        terms = [weight / self.weight * loss for weight, loss in losses] if self.weight else []
        return torch.stack(terms if of_base is None else [of_base, *terms]).sum()

    def _of_adapter(
        self,
        adapter: str,
        context: ForwardContext,
        config: MosldConfig,
        routings: dict[str, Routing],
        share: Tensor | float,
    ) -> Tensor:
        router_losses = [routing.loss for routing in routings.values() if routing.loss is not None]
        formula = config.balance if config.balance in LOAD_LOSSES else "switch"  # the load is counted in any case
        mask_BS = None if config.router == "domain" else context.mask_BS
        whole = self.step_load.known_of(adapter) if config.balance_over == "step" else None
        balance, counts = balance_loss(routings, mask_BS, formula, whole)
        if whole is not None:
            # A trainer counts this pass by its share of the labels, but the loss is a sum over its tokens.
            balance = balance / share
        if config.balance == "bias" or config.balance_over == "step":
            first = next(iter(routings.values())).probs_BSE
            self.step_load.add(adapter, counts, real_tokens(first, mask_BS).sum())
        if config.balance == "localised":
            balance = localised_loss(routings, mask_BS, _kinds_of(context), config.balance_offset)
        # What torch.func maps over does not outlive its call.
        if torch.compiler.is_compiling() or not any(map(is_functorch_wrapped_tensor, counts.values())):
            self._count(adapter, counts, routings)
        return torch.stack(router_losses).mean() if router_losses else balance

    def _count(self, adapter: str, counts: dict[str, Tensor], routings: dict[str, Routing]) -> None:
        keys = [(adapter, name) for name in counts]
        if all(key in self._assignments for key in keys):
            # One kernel on CUDA for all modules.
            sums = torch._foreach_add([self._assignments[key] for key in keys], list(counts.values()))
            self._assignments.update(zip(keys, sums, strict=True))
        else:
            for key, count in zip(keys, counts.values(), strict=True):
                self._assignments[key] = self._assignments.get(key, 0) + count
        for name, routing in routings.items():
            if routing.chosen_BSE is not None:  # experts have a capacity; pads never choose
                self._dropped[adapter, name] = self._dropped.get((adapter, name), 0) + routing.dropped_BS.sum()

    def _watch(self, outputs: object, weight: float, losses: list[tuple[float, Tensor]]) -> None:
        """Warn after a backward pass through the outputs that reached none of the losses."""
        weighted = [loss for own_weight, loss in losses if own_weight and loss.requires_grad]
        if not weight or (losses and not weighted):
            return
        reached: list[bool] = []

        def reach(_: Tensor) -> None:
            reached.append(True)

        def check(_: Tensor) -> None:
            torch.autograd.Variable._execution_engine.queue_callback(warn)

        def warn() -> None:
            if not reached and not self._warned:
                self._warned = True
                warnings.warn(LOST_LOSS.format(weight=weight), stacklevel=2)

        for loss in weighted:
            loss.register_hook(reach)
        for tensor in tensors_with_grad(outputs):
            tensor.register_hook(check)

    def pop_load(self) -> dict[str, dict[str, Tensor]]:
        """The load by module, of several adapters by adapter and module, in the training forwards since the last call.

        Returns:
            "expert_load": the share of assignments of each expert [E]; with router "capacity" also "dropped": the
            share of assignments that full experts turned away []. Where several adapters were active, the name of a
            module follows that of the adapter.
        """
        several = len({adapter for adapter, _ in self._assignments}) > 1
        names = {key: ".".join(key) if several else key[1] for key in self._assignments}
        totals = {key: count.sum().clamp(min=1) for key, count in self._assignments.items()}
        load = {"expert_load": {names[key]: count / totals[key] for key, count in self._assignments.items()}}
        if self._dropped:
            load["dropped"] = {names[key]: count / totals[key] for key, count in self._dropped.items()}
        self._assignments = {}
        self._dropped = {}
        return load


def _kinds_of(context: ForwardContext) -> Tensor:
    if context.domain_B is None:
        raise ValueError(
            "balance='localised' is trained with domain=[B], the kind of each row's task: 0 for the first half of the "
            "experts, 1 for the second (transformers' Trainer keeps that column with remove_unused_columns=False)"
        )
    return context.domain_B


def tensors_with_grad(outputs: object) -> list[Tensor]:
    """The tensors in a model's outputs that have a gradient."""
    values = outputs.values() if isinstance(outputs, dict) else outputs if isinstance(outputs, tuple) else [outputs]
    return [value for value in values if isinstance(value, Tensor) and value.requires_grad]


def text_config(model: nn.Module) -> object:
    """The config of a model's language part."""
    config = getattr(model, "config", None)
    return config.get_text_config() if isinstance(config, PretrainedConfig) else config


def _loss_of(outputs: object) -> Tensor | None:
    loss = outputs.get("loss") if isinstance(outputs, ModelOutput) else None
    # Without a dict, the loss comes first where there are labels.
    return outputs[0] if isinstance(outputs, tuple) and outputs[0].dim() == 0 else loss


def _with_loss(outputs: object, loss: Tensor) -> object:
    if isinstance(outputs, tuple):
        return (loss, *outputs[1:])
    cast(ModelOutput, outputs)["loss"] = loss
    return outputs


def _with_auxiliary_loss(outputs: ModelOutput, aux_loss: Tensor) -> ModelOutput:
    """The outputs with `aux_loss`, in their own class or one that has all its fields."""
    # In that class the loss comes first and `aux_loss` second; without labels, outputs[0] are the logits.
    if type(outputs) is CausalLMOutputWithPast and outputs.loss is not None:
        return MoeCausalLMOutputWithPast(**{**outputs, "aux_loss": aux_loss})
    if "aux_loss" not in {field.name for field in dataclasses.fields(outputs)}:  # type: ignore[arg-type]
        return _class_with_auxiliary_loss(type(outputs))(**{**outputs, "aux_loss": aux_loss})
    outputs["aux_loss"] = aux_loss
    return outputs


@cache
def _class_with_auxiliary_loss(kind: type[ModelOutput]) -> type[ModelOutput]:
    return dataclasses.make_dataclass(kind.__name__, [("aux_loss", Tensor | None, None)], bases=(kind,))


def _share(
    labels: Tensor | None, shift_labels: Tensor | None, num_items_in_batch: Tensor | int | None
) -> Tensor | float:
    """This forward's share of the label tokens of the optimizer step.

    A trainer that divides the cross entropy by the tokens of the whole step sums over its micro-batches; without the
    share the auxiliary loss would count once for each micro-batch. It counts the labels that are predicted: shifted
    ones where given, else all but each row's first.
    """
    if num_items_in_batch is None or labels is None:
        return 1.0
    predicted = shift_labels if shift_labels is not None else labels[..., 1:] if labels.dim() > 1 else labels
    return (predicted != -100).sum() / torch.as_tensor(num_items_in_batch, device=labels.device)
