"""How the rows of a step lie in forward passes: end to end without a pad, or padded where a method needs whole rows."""

from collections.abc import Sequence
from typing import Any

import torch

from mosld.data.batches import Example, even_batches, like_batches, pack, pad
from mosld.evaluation.passes import adapter_config, by_prompt
from mosld.model.attention import packs_rows
from mosld.model.rows import lay_out
from mosld.training.compiled import has_compiled


class Layout:
    """The micro-batches of a step and their tensors.

    Prefix-tuning puts vectors before every row, and MoA chooses an expert for it, so both need rows side by side; as do
    models that are not known to keep packed rows apart.

    Attributes:
        packed: whether rows lie end to end.
        overhead: what a padded pass costs besides its tokens, in tokens.
    """

    def __init__(self, model: Any, filler: int, domains: Sequence[str], device: torch.device) -> None:
        """Choose.

        Args:
            model: to be trained.
            filler: token id of a pad.
            domains: tasks that have an expert of their own.
            device: of the model's inputs.
        """
        adapter, config = adapter_config(model), model.config.get_text_config()
        base = model if adapter.peft_type is None else model.get_base_model()
        self.packed = packs_rows(base) and not adapter.is_prompt_learning and not by_prompt(adapter)
        self.filler, self.domains, self.device = filler, domains, device
        self._heads = config.num_attention_heads, getattr(config, "num_key_value_heads", config.num_attention_heads)
        self._divided = not has_compiled(model)  # a graph for any one group serves all steps, for two it does not
        # On a processor a short pass is nearly free; an accelerator would rather pad than start another.
        self.overhead = 128 if device.type == "cpu" else 2048

    def split(self, examples: Sequence[Example], size: int) -> list[list[Example]]:
        """The rows of a step as micro-batches of at most `size` rows, in each the longest first."""
        return even_batches(examples, size) if self.packed else like_batches(examples, size, self.overhead)

    def inputs(self, batch: Sequence[Example]) -> dict[str, Any]:
        """The keyword arguments of the model's forward on a micro-batch that `split` made, on its device."""
        made = pack(batch) if self.packed else pad(batch, self.filler, self.domains)
        found: dict[str, Any] = {key: value.to(self.device) for key, value in made.items()}
        if self.packed:
            lengths = [len(example.tokens) for example in batch]
            found["groups"] = lay_out(lengths, self._heads, self.device, self._divided)
        return found
