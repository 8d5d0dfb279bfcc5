"""What the adapted modules of one forward pass share: which tokens are real, whose task it is, how they routed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mosld.adapters.routing import Routing


class Place:
    """Where one adapted module leaves its routing.

    An object of its own, not an entry of a shared table: compiled code of one layer then serves all layers, since it
    depends neither on the module's name nor on what other modules left.
    """

    def __init__(self) -> None:
        """Nothing is left yet."""
        self.routing: Routing | None = None


class ForwardContext:
    """Set up by a hook before each forward of the base model, so that `generate` has it, too.

    What it holds between passes has no graph. Gradient checkpointing runs modules again during backward: they find
    the same masks and domains, and the closed record, so nothing is counted twice.

    Attributes:
        mask_BS: 1 for a token, 0 for a pad; None: all are tokens, or the attention mask says nothing of pads.
        domain_B: index of each sequence's own expert (router "domain", in training).
        prompt_mask_BS: 1 for the tokens by which a sequence's expert is decided; None: all tokens.
        decoding: whether this pass goes on with a cached prompt.
        decided: by layer, the routing of the sequences of this batch, kept while decoding.
        votes_across_layers: whether the layers vote for one expert per sequence, which takes one more forward pass.
        votes: the choice of each layer so far in that pass; None outside it.
        elected_B: the expert that most layers named.
    """

    def __init__(self) -> None:
        """Start with nothing known and the record closed."""
        self.mask_BS: Tensor | None = None
        self.domain_B: Tensor | None = None
        self.prompt_mask_BS: Tensor | None = None
        self.decoding = False
        self.decided: dict[str, Routing] = {}
        self.votes_across_layers = False
        self.votes: list[Tensor] | None = None
        self.elected_B: Tensor | None = None
        self._given: tuple[Tensor | None, Tensor | None] = (None, None)
        self._open = False
        self._places: dict[str, Place] = {}

    def place(self, module: str) -> Place:
        """Where the module of that name leaves its routing."""
        return self._places.setdefault(module, Place())

    def give(self, domain_B: Tensor | None, prompt_mask_BS: Tensor | None) -> None:
        """What the next forward of the base model alone is told beyond the arguments that it knows."""
        self._given = domain_B, prompt_mask_BS

    def begin(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The forward pre-hook of the base model."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        shape = kwargs["inputs_embeds"].shape[:2] if ids is None else ids.shape
        mask = kwargs.get("attention_mask")
        self.mask_BS = mask if getattr(mask, "shape", None) == shape else None
        if self.votes is None:  # an election's own pass is told what the pass is that it serves
            self.domain_B, self.prompt_mask_BS = self._given
            self._given = (None, None)
        cache = kwargs.get("past_key_values")
        self.decoding = cache is not None and cache.get_seq_length() > 0
        if not self.decoding:
            self.decided = {}
        if self.votes_across_layers and self.votes is None and not self.decoding and not model.training:
            self._elect(model, args, kwargs)

    @torch.no_grad()
    def _elect(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.votes = []
        try:
            model(*args, **{**kwargs, "past_key_values": None, "use_cache": False, "labels": None})
            self.elected_B = torch.stack(self.votes).mode(dim=0).values if self.votes else None
        finally:
            self.votes = None

    @contextmanager
    def recording(self) -> Iterator[dict[str, Routing]]:
        """Open the record; what it yields holds the routings by module once it is closed."""
        records: dict[str, Routing] = {}
        self._open = True
        try:
            yield records
            records.update({name: place.routing for name, place in self._places.items() if place.routing is not None})
        finally:  # a routing that stays would hold the graph
            self._open = False
            for place in self._places.values():
                place.routing = None

    def leave(self, place: Place, routing: Routing) -> None:
        """Called by each module in its forward; does nothing while the record is closed."""
        if self._open:
            place.routing = routing

    def deciding(self, x_BSI: Tensor) -> Tensor:
        """The mask of the tokens that decide a sequence's expert [B, S], in the type of `x_BSI`."""
        deciding_BS = torch.ones_like(x_BSI[..., 0])
        for mask_BS in (self.mask_BS, self.prompt_mask_BS):  # a pad decides nothing even where it is called a prompt
            if mask_BS is not None:
                deciding_BS = deciding_BS * mask_BS.to(x_BSI)
        return deciding_BS
