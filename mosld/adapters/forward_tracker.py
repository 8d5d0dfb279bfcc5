"""Hooks on the base model that give every forward pass its context, whoever calls it.

A forward of the base model, or of its decoder alone, has a `ForwardContext` from its first hook to its last. Nothing of
it stays on the model: an expert that a prompt decided is kept with the cache of that prompt (`cached_experts`).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from mosld.adapters.auxiliary_loss import AuxiliaryLoss, RoutingsByAdapter, tensors_with_grad
from mosld.adapters.cached_experts import experts_of_cache, keep_with_cache
from mosld.adapters.forward_context import ForwardContext, RoutingSlot
from mosld.adapters.routing import Routing


class _OfThread(threading.local):
    """What one thread is at: its forward pass, the prompt that it answers, and who listens to its routings."""

    context: ForwardContext | None = None
    prompt_BS: Tensor | None = None
    listener: dict[str, Routing] | None = None


class ForwardTracker:
    """Gives every forward pass of an adapted model its context; all adapters of the model share it.

    Attributes:
        auxiliary_loss: what it adds to outputs.
        chooses_by_prompt: whether an adapter has router "domain".
        votes_across_layers: whether layers vote for one expert per sequence, which takes one more forward pass.
    """

    def __init__(self) -> None:
        self.auxiliary_loss = AuxiliaryLoss()
        self.chooses_by_prompt = False
        self.votes_across_layers = False
        self._slots: dict[str, RoutingSlot] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._shared: ForwardContext | None = None
        self._thread = _OfThread()

    def __getstate__(self) -> dict[str, object]:
        # Copies and files of a model hold nothing of a pass that is under way.
        return {**self.__dict__, "_shared": None, "_thread": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _thread=_OfThread())

    @property
    def current(self) -> ForwardContext | None:
        """The forward pass of this thread; None between passes."""
        # torch.compile reads the attributes of a `threading.local` as they were when it compiled.
        return self._shared if torch.compiler.is_compiling() else self._thread.context

    @current.setter
    def current(self, context: ForwardContext | None) -> None:
        self._shared = context
        if not torch.compiler.is_compiling():
            self._thread.context = context

    def slot(self, module: str) -> RoutingSlot:
        """The slot of the module of that name."""
        return self._slots.setdefault(module, RoutingSlot())

    def attach(self, model: nn.Module) -> None:
        """Hook the forward of a model and of its decoder, which chunked losses call alone."""
        self._handles += self._hook(model, depth=0)
        decoder = getattr(model, "get_decoder", lambda: getattr(model, "base_model", None))()
        if isinstance(decoder, nn.Module) and decoder is not model:
            self._handles += self._hook(decoder, depth=1)

    def _hook(self, module: nn.Module, depth: int) -> list[torch.utils.hooks.RemovableHandle]:
        return [
            module.register_forward_pre_hook(partial(self._on_start, depth=depth), with_kwargs=True),
            module.register_forward_hook(self._on_end, with_kwargs=True, always_call=True),
        ]

    def detach(self, model: nn.Module) -> None:
        """Leave the model as `attach` found it."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.auxiliary_loss.retract(model)
        vars(model).pop("generate", None)

    def choose_by_prompt(self, model: nn.Module, vote: bool) -> None:
        """Let prompts choose experts (router "domain"), also those that `generate` answers."""
        self.votes_across_layers |= vote
        if not self.chooses_by_prompt and hasattr(model, "generate"):
            model.generate = partial(self._generate, model)  # type: ignore[assignment]
        self.chooses_by_prompt = True

    def _generate(self, model: nn.Module, *args: Any, **kwargs: Any) -> object:
        """The model's own `generate`, which prefills a prompt whole: the expert is that of the whole prompt."""
        kwargs["prefill_chunk_size"] = None
        prompt = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs"))
        with self._answering(prompt if isinstance(prompt, Tensor) and prompt.dim() == 2 else None):
            return cast(GenerationMixin, type(model)).generate(model, *args, **kwargs)  # type: ignore[misc, arg-type]

    def _on_start(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], depth: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        outer = self.current
        if outer is not None and outer.depth < depth:
            return None  # a part of the pass that is under way
        if outer is not None and outer.votes is None:
            outer = None  # an interrupt ended that pass without its hook
        kwargs = dict(kwargs)
        context = ForwardContext()
        context.owner = model
        context.depth = depth
        context.outer = outer
        context.domain_B = kwargs.pop("domain", None)
        context.prompt_mask_BS = kwargs.pop("prompt_mask", None)
        # Models without tokens, of images or sound, are called with arguments of other names.
        named = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
        shape = getattr(next((tokens for tokens in named if tokens is not None), None), "shape", ())[:2]
        mask = kwargs.get("attention_mask")
        context.mask_BS = mask if getattr(mask, "shape", None) == shape else None
        labels = kwargs.get("labels")
        context.supervised = labels is not None
        if context.prompt_mask_BS is None:
            # A pass in which layers vote has the prompt of the pass that it serves.
            if self.chooses_by_prompt and outer is None:
                _refuse_packed_rows(kwargs.get("position_ids"), context.mask_BS)
            context.prompt_mask_BS = _prompt_of(labels, kwargs.get("input_ids"))
        context.wants_auxiliary_loss = self.auxiliary_loss.take_request(kwargs)
        trains = model.training and (labels is not None or torch.is_grad_enabled())
        context.recording = trains or context.wants_auxiliary_loss or self._listens
        checkpointing = _checkpointing(model) if trains else None
        context.checkpointed = checkpointing is not None
        if checkpointing == "reentrant":
            # It runs the forward without a graph, so the auxiliary loss would silently lose its gradient.
            if labels is not None or context.wants_auxiliary_loss:
                raise ValueError(
                    "reentrant gradient checkpointing loses the gradient of the balance loss; enable it with "
                    "use_reentrant=False"
                )
            context.recording = self._listens
        if self.chooses_by_prompt:
            self._choose_by_prompt(model, context, args, kwargs)
        self.current = context
        return args, kwargs

    @property
    def _listens(self) -> bool:
        return not torch.compiler.is_compiling() and self._thread.listener is not None

    def _choose_by_prompt(
        self, model: nn.Module, context: ForwardContext, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Tell a pass the experts that its cache is of, or which tokens decide."""
        cache = kwargs.get("past_key_values")
        context.decoding = cache is not None and bool(cache.get_seq_length() > 0)
        if context.decoding:
            context.cached = experts_of_cache(cache)
            context.decided = dict(context.cached)
            return
        if context.prompt_mask_BS is None and not torch.compiler.is_compiling():
            context.prompt_mask_BS = _inside(self._thread.prompt_BS, kwargs.get("input_ids"))
        if self.votes_across_layers and not model.training:
            self._vote(model, context, args, kwargs)

    @torch.no_grad()
    def _vote(self, model: nn.Module, context: ForwardContext, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        outer = self.current
        if outer is not None and outer.votes is not None:
            # The pass in which layers vote has the inputs of the pass that it serves.
            context.votes = outer.votes
            context.prompt_mask_BS = outer.prompt_mask_BS
            context.recording = False
            return
        context.votes = []
        self.current = context
        try:
            # An attention mask of four dimensions is made for the size of the cache.
            cache = deepcopy(kwargs.get("past_key_values"))
            model(*args, **{**kwargs, "past_key_values": cache, "use_cache": cache is not None, "labels": None})
            context.elected_B = torch.stack(context.votes).mode(dim=0).values if context.votes else None
        finally:
            context.votes = None
            self.current = outer

    def _on_end(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: object
    ) -> object | None:
        context = self.current
        if context is None or context.owner is not model:
            return None
        self.current = context.outer
        routings = self._collect() if context.recording else {}
        if outputs is None:  # the forward raised an error
            return None
        # No answer follows a pass that trains on labels.
        if context.decided and not context.decoding and not (model.training and context.supervised):
            keep_with_cache(kwargs.get("past_key_values") or getattr(outputs, "past_key_values", None), context.decided)
        if routings:
            outputs = self.auxiliary_loss.add(model, context, kwargs, outputs, routings)
        if context.checkpointed and not torch.compiler.is_compiling():
            self._resume_in_backward(context, outputs)
        return outputs

    def _collect(self) -> RoutingsByAdapter:
        """Take the routings out of the slots: one that stays would hold the graph."""
        routings: RoutingsByAdapter = {}
        for module, slot in self._slots.items():
            for adapter, config, routing in slot.routings:
                routings.setdefault(adapter, (config, {}))[1][module] = routing
            slot.routings = []
        if self._listens:
            for _, by_module in routings.values():
                self._thread.listener.update(by_module)  # type: ignore[union-attr]
        return routings

    def _resume_in_backward(self, context: ForwardContext, outputs: object) -> None:
        """Let modules that gradient checkpointing runs again see the context of their own forward."""

        def resume(_: Tensor) -> None:
            self.current = context.rerun()
            torch.autograd.Variable._execution_engine.queue_callback(forget)

        def forget() -> None:
            self.current = None

        for tensor in tensors_with_grad(outputs):
            tensor.register_hook(resume)

    @contextmanager
    def recording(self) -> Iterator[dict[str, Routing]]:
        """Record the routings of this thread's forward passes; yields a dict that holds them by module."""
        records: dict[str, Routing] = {}
        outer, self._thread.listener = self._thread.listener, records
        try:
            yield records
        finally:
            self._thread.listener = outer

    @contextmanager
    def _answering(self, prompt_BS: Tensor | None) -> Iterator[None]:
        """Let this prompt alone decide, also in passes without a cache that run over the answer so far."""
        outer, self._thread.prompt_BS = self._thread.prompt_BS, prompt_BS
        try:
            yield
        finally:
            self._thread.prompt_BS = outer


def _prompt_of(labels: Tensor | None, ids: Tensor | None) -> Tensor | None:
    """The tokens of each row without a label; all tokens of a row where every token has one."""
    if labels is None or ids is None or labels.shape != ids.shape:
        return None
    unlabelled = labels == -100
    return unlabelled | ~unlabelled.any(-1, keepdim=True)


def _inside(prompt_BS: Tensor | None, ids_BS: Tensor | None) -> Tensor | None:
    """The mask of a prompt at the start of each row; None where rows do not start with it.

    `generate` may repeat the rows of the prompt, for beams and for several answers.
    """
    if prompt_BS is None or ids_BS is None or len(ids_BS) % len(prompt_BS):
        return None
    width = prompt_BS.shape[1]
    rows_BS = prompt_BS.repeat_interleave(len(ids_BS) // len(prompt_BS), dim=0)
    if not torch.equal(ids_BS[:, :width], rows_BS.to(ids_BS.device)):
        return None
    return (torch.arange(ids_BS.shape[1], device=ids_BS.device) < width).long().expand_as(ids_BS)


def _refuse_packed_rows(positions: Tensor | None, mask_BS: Tensor | None) -> None:
    """Refuse rows that lie end to end: one expert would be chosen for all of them."""
    if positions is None or positions.dim() != 2:
        return
    steps = positions.diff(dim=-1) <= 0
    if mask_BS is not None and mask_BS.shape == positions.shape:
        steps = steps & (mask_BS[:, 1:] > 0) & (mask_BS[:, :-1] > 0)
    if steps.any():
        raise ValueError(
            "a mixture of domains chooses one expert for each row of the batch, and position_ids start anew inside a "
            "row: pad rows instead of packing them (packing=False, padding_free=False, no DataCollatorWithFlattening)"
        )


def _checkpointing(model: nn.Module) -> str | None:
    """The kind of gradient checkpointing that is on: "plain", "reentrant", or None."""
    module = next((module for module in model.modules() if getattr(module, "gradient_checkpointing", False)), None)
    if module is None:
        return None
    options = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
    return "reentrant" if options.get("use_reentrant", False) else "plain"
