"""The micro-batches of a step and their tensors: rows packed end to end, or padded where a method needs whole rows.

The rows of an optimiser step are a uniformly random draw; how they are split into micro-batches does not change what
the step averages over.
Shapes: B rows of the micro-batch, S longest row, P most tokens with a loss; packed: T tokens of all rows, P of them
with a loss.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch.utils._pytree import tree_map_only

from mosld.adapters.config import adapter_config, needs_whole_rows
from mosld.adapters.load import Model, base_model_of
from mosld.data.tokens.encoding import Example, answer_tokens
from mosld.models.attention import packs_rows
from mosld.models.packed_attention import RowGroup, lay_out
from mosld.training.compile import has_compiled

# The keyword arguments of a model's forward pass.
Inputs = dict[str, torch.Tensor | tuple[RowGroup, ...]]
# The label of a position that has no loss.
IGNORED = -100
# By task, what the forward pass is told of each row; of a sequence, its index (`row_indices`).
Domains = Sequence[str] | Mapping[str, int]
# What a padded forward pass costs besides its tokens, in tokens: a short pass is nearly free on CPU; a GPU would
# rather pad than start another.
CPU_PASS_OVERHEAD_TOKENS = 128
GPU_PASS_OVERHEAD_TOKENS = 2048


def balance_packed(examples: Sequence[Example], size: int) -> list[list[Example]]:
    """Split the rows of a step into as few packed micro-batches of at most `size` rows as possible.

    The micro-batches have about as many tokens each; in each the longest row comes first.
    """
    batches: list[list[Example]] = [[] for _ in range(-(-len(examples) // size))]
    tokens = [0] * len(batches)
    for example in _longest_first(examples):
        lightest = min((i for i, batch in enumerate(batches) if len(batch) < size), key=tokens.__getitem__)
        batches[lightest].append(example)
        tokens[lightest] += len(example.tokens)
    return batches


def bucket_by_length(examples: Sequence[Example], size: int, overhead: int = 0) -> list[list[Example]]:
    """Split the rows of a step into padded micro-batches of rows of similar length, the longest first.

    The cuts minimise the padded tokens plus the overhead of each pass (dynamic programming over the sorted rows).

    Args:
        overhead: what a forward pass costs besides its padded tokens, in tokens: the larger, the fewer cuts.
    """
    ranked = _longest_first(examples)
    # Of the first n rows: the least cost, and where their last micro-batch starts.
    cost = [0]
    starts = [0]
    for stop in range(1, len(ranked) + 1):
        choices = [
            (cost[start] + (stop - start) * len(ranked[start].tokens) + overhead, start)
            for start in range(max(0, stop - size), stop)
        ]
        least, start = min(choices)
        cost.append(least)
        starts.append(start)
    batches: list[list[Example]] = []
    stop = len(ranked)
    while stop:
        batches.append(ranked[starts[stop] : stop])
        stop = starts[stop]
    return batches[::-1]


def _longest_first(examples: Sequence[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: -len(example.tokens))


def pack(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """The keyword arguments of the model's forward pass on rows laid end to end, with logits at answer positions alone.

    Returns:
        input_ids, position_ids: [1, T], positions counted in each row; logits_to_keep: [P], the positions that predict
        a token with a loss; labels, shift_labels: [1, P], the tokens to predict there, already shifted; attention_mask
        [1, 1, 1, 1], which keeps transformers from making one of T x T: it is NaN, because the rows are told apart by
        `groups`, and a model that used this as a mask must not train on.
    """
    starts = [0, *accumulate(len(example.tokens) for example in examples)]
    positions = [
        range(start + first - 1, start + end - 1)
        for start, example in zip(starts, examples, strict=False)
        for first, end in example.spans
    ]
    labels = torch.tensor([[token for example in examples for token in example.targets]])
    return {
        "input_ids": torch.tensor([[token for example in examples for token in example.tokens]]),
        "position_ids": torch.cat([torch.arange(len(example.tokens)) for example in examples]).unsqueeze(0),
        "attention_mask": torch.full((1, 1, 1, 1), torch.nan),
        "logits_to_keep": torch.tensor([position for span in positions for position in span]),
        "labels": labels,
        "shift_labels": labels,
    }


def pad_batch(examples: Sequence[Example], pad_token_id: int, domains: Domains = ()) -> dict[str, torch.Tensor]:
    """The keyword arguments of the model's forward pass, right-padded, with logits at answer positions alone.

    Returns:
        input_ids, attention_mask: [B, S]; logits_to_keep: [B, P], the positions that predict the answer;
        labels, shift_labels: [B, P], the tokens to predict there, already shifted. With domains also
        domain: [B], the index of each row's task, and prompt_mask: [B, S].
    """
    longest = max(len(example.tokens) for example in examples)
    answers = max(answer_tokens([example]) for example in examples)
    input_ids = torch.full((len(examples), longest), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    positions = torch.zeros(len(examples), answers, dtype=torch.long)
    labels = torch.full((len(examples), answers), IGNORED)
    for i, example in enumerate(examples):
        length, answer = len(example.tokens), example.targets
        input_ids[i, :length] = torch.tensor(example.tokens)
        attention_mask[i, :length] = 1
        labels[i, : len(answer)] = torch.tensor(answer)
        positions[i, : len(answer)] = torch.cat([torch.arange(start - 1, end - 1) for start, end in example.spans])
    batch = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "logits_to_keep": positions,
        "labels": labels,
        "shift_labels": labels,
    }
    if domains:
        starts = torch.tensor([example.spans[0][0] for example in examples])
        indices = domains if isinstance(domains, Mapping) else {name: index for index, name in enumerate(domains)}
        batch["domain"] = torch.tensor([indices[example.row.task] for example in examples])
        batch["prompt_mask"] = (torch.arange(longest) < starts.unsqueeze(-1)).long()
    return batch


class BatchBuilder:
    """Makes the micro-batches of a step and their tensors.

    Prefix-tuning puts vectors before every row and MoA chooses an expert for every row, so both need padded rows; so do
    models that are not known to keep packed rows apart.

    Attributes:
        overhead: what a padded forward pass costs besides its tokens, in tokens.
    """

    def __init__(self, model: Model, pad_token_id: int, domains: Domains, device: torch.device) -> None:
        """Choose packed or padded rows for a model.

        Args:
            domains: by task, what the forward pass is told of each row.
        """
        adapter = adapter_config(model)
        config = model.config.get_text_config()
        self.packed = (
            packs_rows(base_model_of(model)) and not adapter.is_prompt_learning and not needs_whole_rows(adapter)
        )
        self.pad_token_id = pad_token_id
        self.domains = domains
        self.device = device
        self.overhead = CPU_PASS_OVERHEAD_TOKENS if device.type == "cpu" else GPU_PASS_OVERHEAD_TOKENS
        # Models without attention, as Mamba, have no heads; their rows are not packed.
        heads = getattr(config, "num_attention_heads", 0)
        self._heads = (heads, getattr(config, "num_key_value_heads", heads))
        # A compiled graph for one group of rows serves all steps; a graph for two does not.
        self._two_groups = not has_compiled(model)

    def split(self, examples: Sequence[Example], size: int) -> list[list[Example]]:
        """The rows of a step as micro-batches of at most `size` rows, in each the longest first."""
        return balance_packed(examples, size) if self.packed else bucket_by_length(examples, size, self.overhead)

    def inputs(self, batch: Sequence[Example]) -> Inputs:
        """The keyword arguments of the model's forward on a micro-batch that `split` made, on its device."""
        inputs: Inputs = {**(pack(batch) if self.packed else pad_batch(batch, self.pad_token_id, self.domains))}
        if self.packed:
            lengths = [len(example.tokens) for example in batch]
            inputs["groups"] = lay_out(lengths, self._heads, self._two_groups)
        return tree_map_only(torch.Tensor, self._send, inputs)

    def _send(self, tensor: torch.Tensor) -> torch.Tensor:
        # CUDA copies from pinned memory while the host goes on; a copy from other memory waits for all work before it.
        source = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return source.to(self.device, non_blocking=True)
