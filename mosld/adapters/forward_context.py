"""What the adapted modules of one forward pass share: which tokens are real, which domains, and their routings."""

from copy import copy

import torch
from torch import Tensor, nn

from mosld.adapters.config import MosldConfig
from mosld.adapters.routing import Routing

AdapterLayer = tuple[str, str]
"""Names of an adapter and of a decoder layer."""


class RoutingSlot:
    """Where one adapted module records the routing of each active adapter.

    Each module has an object of its own instead of an entry in a shared table: compiled code of one layer then serves
    all layers, since it depends neither on the module's name nor on what other modules recorded.
    """

    def __init__(self) -> None:
        self.routings: list[tuple[str, MosldConfig, Routing]] = []


class ForwardContext:
    """State of one forward pass.

    Attributes:
        mask_BS: 1 for a token, 0 for a pad; None: all are tokens, or the attention mask does not tell pads.
        domain_B: index of each sequence's expert (router "domain", in training).
        supervised: whether the pass has labels, so that a mixture of domains in training needs `domain_B`.
        prompt_mask_BS: 1 for the tokens that decide a sequence's expert; None: all tokens.
        decoding: whether this pass continues a cached prompt.
        cached: by adapter and layer, the routing of the sequences whose cache this pass continues.
        decided: the same with those decided in this pass.
        votes: the choice of each layer so far, in the pass in which layers vote for one expert; None in others.
        elected_B: the expert with the votes of most layers.
        recording: whether modules record their routings.
        owner: the module whose forward it is.
        depth: of the owner among the hooked modules, 0 for the model and 1 for a part of it.
        outer: the pass inside which this one runs.
        checkpointed: whether modules run again in the backward pass.
        wants_auxiliary_loss: whether the caller adds `outputs.aux_loss` to the loss.
    """

    def __init__(self) -> None:
        self.mask_BS: Tensor | None = None
        self.domain_B: Tensor | None = None
        self.supervised = True
        self.prompt_mask_BS: Tensor | None = None
        self.decoding = False
        self.cached: dict[AdapterLayer, Routing] = {}
        self.decided: dict[AdapterLayer, Routing] = {}
        self.votes: list[Tensor] | None = None
        self.elected_B: Tensor | None = None
        self.recording = False
        self.owner: nn.Module | None = None
        self.depth = 0
        self.outer: ForwardContext | None = None
        self.checkpointed = False
        self.wants_auxiliary_loss = False

    def rerun(self) -> "ForwardContext":
        """The context in which gradient checkpointing runs modules of this pass again: nothing is recorded twice."""
        context = copy(self)
        context.decided = dict(self.cached)
        context.recording = False
        return context

    def record(self, slot: RoutingSlot, adapter: str, config: MosldConfig, routing: Routing) -> None:
        """Record a module's routing; does nothing where nobody asks for it."""
        if self.recording:
            slot.routings = [*slot.routings, (adapter, config, routing)]

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
