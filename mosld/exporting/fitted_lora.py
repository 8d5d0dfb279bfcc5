"""The plain LoRA nearest to a mixture on given rows: a mixture's update of a token depends on its gates, a LoRA's not.

For each layer, with z = A x of the token (of all experts, where each has its own A) and u the mixture's update,
``B* = E[u z^T] E[z z^T]^+`` is the best fixed B for that A in least squares. It takes one pass over the rows, and with
the feed-forward blocks of MixLoRA a second one, since the input of down_proj depends on the other two.

Shapes: B batch, S sequence, I in, O out, E experts, F features, R rank, T tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import linear

from mosld.adapters.bank import ExpertBank
from mosld.adapters.layers import FeedForwardMixture, GatedBlock, MixtureFeedForward
from mosld.adapters.moa import mixtures_of
from mosld.exporting.least_squares import Moments
from mosld.exporting.plain_lora import Updates, expert_update

Batch = Mapping[str, Tensor]
"""input_ids and attention_mask [B, S]."""
Observation = tuple[Tensor, Tensor]
"""Of every token of a forward pass, the features [B, S, F] and the update [B, S, O]."""


@dataclass(frozen=True)
class _Target:
    """A linear layer that gets a LoRA.

    Attributes:
        bank: the experts; their A gives the features.
        module: what is hooked.
        observe: from the arguments and the outputs of its forward.
    """

    bank: ExpertBank
    module: nn.Module
    observe: Callable[[tuple[Any, ...], Any], Observation]


@torch.no_grad()
def fit_updates(
    model: PeftModel, rows: Sequence[Batch], unseen: Sequence[Batch], rank: int
) -> tuple[Updates, dict[str, float]]:
    """The updates of the nearest plain LoRA.

    Args:
        model: a mixture in eval mode.
        rank: the largest rank; a lower one than that of the features truncates the fit.

    Returns:
        The updates; and for each layer that was fitted, the error of its update on the unseen rows relative to the
        update, ``sqrt(E|u - B A x|^2 / E|u|^2)``.
    """
    # A layer with one expert has one fixed update.
    updates = {key: expert_update(mixture, 0) for key, mixture in mixtures_of(model).items() if mixture.experts == 1}
    errors: dict[str, float] = {}
    for stage in (_linear_targets, _down_targets):
        targets = dict(stage(model, updates))
        if not targets:
            continue
        fitted = _observe(model, targets, rows)
        tested = _observe(model, targets, unseen)
        for key, moments in fitted.items():
            fit = moments.fit(rank)
            errors[key] = tested[key].error(fit)
            updates[key] = (fit.C_RF.float() @ targets[key].bank.A, fit.B_OR.float())
    return updates, errors


def _linear_targets(model: PeftModel, _: Updates) -> Iterator[tuple[str, _Target]]:
    """The layers whose input does not depend on what is fitted."""

    def observe_update(args: tuple[Any, ...], outputs: Any, bank: ExpertBank) -> Observation:
        return _features(bank, args[0]), outputs[0]

    def observe_block(args: tuple[Any, ...], outputs: Any, bank: ExpertBank) -> Observation:
        _, x_BSI, _ = args
        # The gates sum to 1, so this is the mean of the experts' updates.
        return _features(bank, x_BSI), bank.up(bank.down(x_BSI), outputs[1].gates_BSE)

    for key, mixture in mixtures_of(model).items():
        if mixture.experts > 1:
            yield key, _Target(mixture, mixture, partial(observe_update, bank=mixture))
    for key, block in _blocks(model):
        for name, bank in (("gate_proj", block.gate), ("up_proj", block.up)):
            yield f"{key}.{name}", _Target(bank, block, partial(observe_block, bank=bank))


def _down_targets(model: PeftModel, updates: Updates) -> Iterator[tuple[str, _Target]]:
    """The last projection of each block, whose input is that of the fitted other two: it makes up for their errors."""

    def observe(args: tuple[Any, ...], outputs: Any, key: str, bank: ExpertBank) -> Observation:
        layer, x_BSI, _ = cast(tuple[GatedBlock, Tensor, object], args)
        gate_BSF = layer.gate_proj(x_BSI) + _apply(updates[f"{key}.gate_proj"], x_BSI)
        h_BSF = layer.act_fn(gate_BSF) * (layer.up_proj(x_BSI) + _apply(updates[f"{key}.up_proj"], x_BSI))
        return _features(bank, h_BSF), outputs[0] - layer.down_proj(h_BSF)

    for key, block in _blocks(model):
        yield f"{key}.down_proj", _Target(block.down, block, partial(observe, key=key, bank=block.down))


def _blocks(model: PeftModel) -> Iterator[tuple[str, FeedForwardMixture]]:
    for layer in model.modules():
        if isinstance(layer, MixtureFeedForward):
            yield layer.key, cast(FeedForwardMixture, layer.mosld_mixture[model.active_adapter])


def _features(bank: ExpertBank, x_BSI: Tensor) -> Tensor:
    return linear(x_BSI.to(bank.A.dtype), bank.A)


def _apply(update: tuple[Tensor, Tensor], x_BSI: Tensor) -> Tensor:
    A_RI, B_OR = update
    return linear(linear(x_BSI, A_RI), B_OR)


def _observe(model: PeftModel, targets: Mapping[str, _Target], batches: Sequence[Batch]) -> dict[str, Moments]:
    """The sums of every target over the tokens of these rows."""
    moments = {}
    handles = []
    real_BS = torch.empty(0)

    def hook(target: _Target, sums: Moments) -> Callable[..., None]:
        def add(_: nn.Module, args: tuple[Any, ...], outputs: object) -> None:
            z_BSF, u_BSO = target.observe(args, outputs)
            sums.add(z_BSF[real_BS], u_BSO[real_BS])

        return add

    for key, target in targets.items():
        moments[key] = Moments(target.bank.A.shape[0], target.bank.B.shape[0], target.bank.A.device)
        handles.append(target.module.register_forward_hook(hook(target, moments[key])))
    try:
        for batch in batches:
            real_BS = batch["attention_mask"].bool()
            model(**batch, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return moments
