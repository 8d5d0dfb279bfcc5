"""What the adapted modules of one forward pass share: which tokens are real, which domains, and their routings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mosld.adapters.routing import Routing

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from mosld.adapters.bank import Mixture
    from mosld.adapters.router import Router


TOKENS = ("input_ids", "inputs_embeds")  # arguments that have a value for each token


class RoutingSlot:
    """Where one adapter of one module records its routing.

    Each has an object of its own instead of an entry in a shared table: compiled code of one layer then serves
    all layers, since it depends neither on the module's name nor on what other modules recorded.
    """

    def __init__(self) -> None:
        self.routing: Routing | None = None


class ForwardContext:
    """State of one forward pass, set by a hook before each forward of the base model, so also inside `generate`.

    What it holds between passes has no graph. Gradient checkpointing runs modules again during backward: they see the
    same masks and domains, and recording is off by then, so nothing is counted twice.

    Attributes:
        mask_BS: 1 for a token, 0 for a pad; None: all are tokens, or the attention mask does not tell pads.
        domain_B: index of each sequence's expert (router "domain", in training).
        supervised: whether the pass has labels, so that a mixture of domains in training needs `domain_B`.
        prompt_mask_BS: 1 for the tokens that decide a sequence's expert; None: all tokens.
        decoding: whether this pass continues a cached prompt.
        decided: by layer, the routing of the sequences of this batch, kept while decoding.
        votes_across_layers: whether the layers vote for one expert per sequence, which takes one more forward pass.
        votes: the choice of each layer so far in that pass; None outside it.
        elected_B: the expert with the votes of most layers.
        handle: of the hook.
        routers: by adapter and layer, the one router of that layer's mixtures (router "domain").
        deciders: likewise, the mixture that runs first, whose input the router reads.
    """

    def __init__(self) -> None:
        self.mask_BS: Tensor | None = None
        self.domain_B: Tensor | None = None
        self.supervised = True
        self.prompt_mask_BS: Tensor | None = None
        self.decoding = False
        self.decided: dict[str, Routing] = {}
        self.votes_across_layers = False
        self.votes: list[Tensor] | None = None
        self.elected_B: Tensor | None = None
        self.handle: RemovableHandle | None = None
        self.routers: dict[str, Router] = {}
        self.deciders: dict[str, Mixture] = {}
        self._next_inputs: tuple[Tensor | None, Tensor | None] = (None, None)
        self._recording = False
        self._slots: dict[str, dict[str, RoutingSlot]] = {}

    def slot(self, adapter: str, module: str) -> RoutingSlot:
        """The slot of an adapter of the module of that name."""
        return self._slots.setdefault(adapter, {}).setdefault(module, RoutingSlot())

    def set_inputs(self, domain_B: Tensor | None, prompt_mask_BS: Tensor | None) -> None:
        """Set what the next forward of the base model alone needs besides its arguments."""
        self._next_inputs = domain_B, prompt_mask_BS

    def on_forward(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The forward pre-hook of the base model."""
        tokens = next((known for known in (*args[:1], *map(kwargs.get, TOKENS)) if known is not None), None)
        mask = kwargs.get("attention_mask")
        self.supervised = kwargs.get("labels") is not None
        shape = getattr(tokens, "shape", ())[:2]
        self.mask_BS = mask if len(shape) == 2 and getattr(mask, "shape", None) == shape else None
        # The pass in which layers vote has the inputs of the pass that it serves.
        if self.votes is None:
            self.domain_B, self.prompt_mask_BS = self._next_inputs
            self._next_inputs = (None, None)
        cache = kwargs.get("past_key_values")
        self.decoding = cache is not None and cache.get_seq_length() > 0
        if not self.decoding:
            self.decided = {}
            self.elected_B = None
        if self.votes_across_layers and self.votes is None and not self.decoding and not model.training:
            self._vote(model, args, kwargs)

    @torch.no_grad()
    def _vote(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.votes = []
        try:
            model(*args, **{**kwargs, "past_key_values": None, "use_cache": False, "labels": None})
            self.elected_B = torch.stack(self.votes).mode(dim=0).values if self.votes else None
        finally:
            self.votes = None

    @contextmanager
    def recording(self) -> Iterator[dict[str, dict[str, Routing]]]:
        """Record routings; the dict that it yields holds them by adapter and module once the context is left."""
        records: dict[str, dict[str, Routing]] = {}
        self._recording = True
        try:
            yield records
            for adapter, slots in self._slots.items():
                if routings := {name: slot.routing for name, slot in slots.items() if slot.routing is not None}:
                    records[adapter] = routings
        finally:
            self._recording = False
            # A routing that stays would hold the graph.
            for slots in self._slots.values():
                for slot in slots.values():
                    slot.routing = None

    def record(self, slot: RoutingSlot, routing: Routing) -> None:
        """Record a module's routing; does nothing outside `recording`."""
        if self._recording:
            slot.routing = routing

    def mask_of(self, x_BSI: Tensor) -> Tensor | None:
        """The mask of these tokens, also where the base model has flattened them.

        Beside an encoder, a decoder has tokens of its own: where the mask is not theirs by its size, all are tokens.
        """
        shape = x_BSI.shape[:-1]
        known_BS = self.mask_BS
        return known_BS.reshape(shape) if known_BS is not None and known_BS.numel() == shape.numel() else None

    def deciding_mask(self, x_BSI: Tensor) -> Tensor:
        """The mask of the tokens that decide a sequence's expert [B, S], in the dtype of `x_BSI`."""
        mask_BS = torch.ones_like(x_BSI[..., 0])
        # A pad decides nothing, even where the prompt mask includes it.
        for known_BS in (self.mask_of(x_BSI), self.prompt_mask_BS):
            if known_BS is not None:
                mask_BS = mask_BS * known_BS.to(x_BSI)
        return mask_BS
