"""How the rows of a step lie in forward passes: end to end without a pad, or padded where a method needs whole rows."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch

from mosld.adapters.config import adapter_config, by_prompt
from mosld.data.encoding import Example
from mosld.models.attention import packs_rows
from mosld.models.packed_attention import lay_out
from mosld.training.compile import has_compiled

# PART: Training batches: rows as tokens, the micro-batches of a step, and their tensors. The rows of an optimiser
# step are a uniformly random draw; how they lie in micro-batches, packed without a pad or padded beside rows of
# like length, does not change what the step averages over. Shapes: B rows of the micro-batch, S longest row, P
# longest answer; packed: T tokens of all rows, P of all answers.


IGNORED = -100  # label of a position that has no loss


def balance_packed(examples: Sequence[Example], size: int) -> list[list[Example]]:
    """The rows of one step in as few packed micro-batches as `size` rows each allow, of about as many tokens.

    In each the longest row comes first.
    """
    batches: list[list[Example]] = [[] for _ in range(-(-len(examples) // size))]
    tokens = [0] * len(batches)
    for example in _longest_first(examples):
        lightest = min((i for i, batch in enumerate(batches) if len(batch) < size), key=tokens.__getitem__)
        batches[lightest].append(example)
        tokens[lightest] += len(example.tokens)
    return batches


def bucket_by_length(examples: Sequence[Example], size: int, overhead: int = 0) -> list[list[Example]]:
    """The rows of one step in padded micro-batches of similar length, the longest first, cut where it costs least.

    Args:
        examples: the rows of the step.
        size: most rows in one micro-batch.
        overhead: what a forward pass costs besides its padded tokens, in tokens: the larger, the fewer cuts.
    """
    ranked = _longest_first(examples)
    cost, starts = [0], [0]  # of the first n rows: least cost, and where their last micro-batch starts
    for stop in range(1, len(ranked) + 1):
        choices = [
            (cost[start] + (stop - start) * len(ranked[start].tokens) + overhead, start)
            for start in range(max(0, stop - size), stop)
        ]
        least, start = min(choices)
        cost.append(least)
        starts.append(start)
    batches, stop = list[list[Example]](), len(ranked)
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
        an answer; labels, shift_labels: [1, P], the tokens to be predicted there, already shifted. And an
        attention_mask [1, 1, 1, 1] that keeps transformers from making one of T x T: not a number, since where rows lie
        is told otherwise, and a model that took this for a mask must not go on.
    """
    starts = [0, *accumulate(len(example.tokens) for example in examples)]
    answers = [
        range(start + example.answer_start - 1, start + len(example.tokens) - 1)
        for start, example in zip(starts, examples, strict=False)
    ]
    labels = torch.tensor([[token for example in examples for token in example.tokens[example.answer_start :]]])
    return {
        "input_ids": torch.tensor([[token for example in examples for token in example.tokens]]),
        "position_ids": torch.cat([torch.arange(len(example.tokens)) for example in examples]).unsqueeze(0),
        "attention_mask": torch.full((1, 1, 1, 1), torch.nan),
        "logits_to_keep": torch.tensor([place for places in answers for place in places]),
        "labels": labels,
        "shift_labels": labels,
    }


def pad(examples: Sequence[Example], pad_token_id: int, domains: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """The keyword arguments of the model's forward pass, right-padded, with logits at answer positions alone.

    Returns:
        input_ids, attention_mask: [B, S]; logits_to_keep: [B, P], the positions that predict the answer;
        labels, shift_labels: [B, P], the tokens to be predicted there, already shifted. With domains also
        domain: [B], the index of each row's task among them, and prompt_mask: [B, S].
    """
    longest = max(len(example.tokens) for example in examples)
    answers = max(len(example.tokens) - example.answer_start for example in examples)
    input_ids = torch.full((len(examples), longest), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    positions = torch.zeros(len(examples), answers, dtype=torch.long)
    labels = torch.full((len(examples), answers), IGNORED)
    for i, example in enumerate(examples):
        length, answer = len(example.tokens), example.tokens[example.answer_start :]
        input_ids[i, :length] = torch.tensor(example.tokens)
        attention_mask[i, :length] = 1
        labels[i, : len(answer)] = torch.tensor(answer)
        positions[i, : len(answer)] = torch.arange(example.answer_start - 1, length - 1)
    batch = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "logits_to_keep": positions,
        "labels": labels,
        "shift_labels": labels,
    }
    if domains:
        starts = torch.tensor([example.answer_start for example in examples])
        batch["domain"] = torch.tensor([domains.index(example.row.task) for example in examples])
        batch["prompt_mask"] = (torch.arange(longest) < starts.unsqueeze(-1)).long()
    return batch


# PART: How the rows of a step lie in forward passes: end to end without a pad, or padded where a method needs whole
# rows.


class BatchBuilder:
    """The micro-batches of a step and their tensors.

    Prefix-tuning puts vectors before every row, and MoA chooses an expert for it, so both need rows side by side; as do
    models that are not known to keep packed rows apart.

    Attributes:
        packed: whether rows lie end to end.
        overhead: what a padded pass costs besides its tokens, in tokens.
    """

    def __init__(self, model: Any, pad_token_id: int, domains: Sequence[str], device: torch.device) -> None:
        """Choose.

        Args:
            model: to be trained.
            pad_token_id: token id of a pad.
            domains: tasks that have an expert of their own.
            device: of the model's inputs.
        """
        adapter, config = adapter_config(model), model.config.get_text_config()
        base = model if adapter.peft_type is None else model.get_base_model()
        self.packed = packs_rows(base) and not adapter.is_prompt_learning and not by_prompt(adapter)
        self.pad_token_id, self.domains, self.device = pad_token_id, domains, device
        self._heads = config.num_attention_heads, getattr(config, "num_key_value_heads", config.num_attention_heads)
        self._divided = not has_compiled(model)  # a graph for any one group serves all steps, for two it does not
        # On a processor a short pass is nearly free; an accelerator would rather pad than start another.
        self.overhead = 128 if device.type == "cpu" else 2048

    def split(self, examples: Sequence[Example], size: int) -> list[list[Example]]:
        """The rows of a step as micro-batches of at most `size` rows, in each the longest first."""
        return balance_packed(examples, size) if self.packed else bucket_by_length(examples, size, self.overhead)

    def inputs(self, batch: Sequence[Example]) -> dict[str, Any]:
        """The keyword arguments of the model's forward on a micro-batch that `split` made, on its device."""
        made = pack(batch) if self.packed else pad(batch, self.pad_token_id, self.domains)
        found: dict[str, Any] = {key: value.to(self.device) for key, value in made.items()}
        if self.packed:
            lengths = [len(example.tokens) for example in batch]
            found["groups"] = lay_out(lengths, self._heads, self.device, self._divided)
        return found
