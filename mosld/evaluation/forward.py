"""Forward passes for scoring: eval mode, batches shared among the processes of a run, and an adapter's inputs."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from mosld.adapters.config import adapter_config, by_prompt
from mosld.adapters.load import Model, base_model_of
from mosld.distributed.fsdp import input_device, reshard
from mosld.distributed.processes import processes
from mosld.evaluation.packing import Packed, packed_inputs, prompt_mask, unpacked_inputs

# Packed questions are shorter than this (`packing.MAX_SHARED_TOKENS`), and so are the cutoffs of the benchmarks' rows.
SMALLEST_WINDOW = 4096
# Wraps the batches of a process, for a progress bar.
Progress = Callable[[Sequence], Iterable]
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@contextmanager
def scoring_mode(model: Model) -> Iterator[None]:
    """Eval mode without gradients; the training mode is restored at the end."""
    was_training = model.training
    model.eval()
    # Parameters that FSDP gathers in inference mode can never be trained.
    sharded = processes().sharded
    with torch.no_grad() if sharded else torch.inference_mode():
        yield
    if sharded:
        reshard(model)
    model.train(was_training)


def run_batches(
    batches: Sequence[list[Item]], answer: Callable[[list[Item], bool], Sequence[Answer]], progress: Progress
) -> dict[int, Answer]:
    """Answer all items, with the batches shared among the processes of the run.

    Args:
        batches: the same in every process.
        answer: returns one picklable answer per item of a batch. Its second argument is False for a batch that is
            run only to keep sharded processes in step and must leave no record.

    Returns:
        The answers of all processes by the id() of the item.
    """
    group = processes()
    answers = [answer(batch, recorded) for batch, recorded in progress(group.shard(list(batches)))]
    by_item: dict[int, Answer] = {}
    for rank, gathered in enumerate(group.all_gather(answers)):
        # The last entry of a process may be of a batch that was run only to keep in step.
        for batch, batch_answers in zip(batches[rank :: group.count], gathered, strict=False):
            by_item.update(zip(map(id, batch), batch_answers, strict=True))
    return by_item


def inputs_for(model: Model, batch: Sequence[Packed], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Keyword arguments of the model's forward for packed questions, on the model's device."""
    if takes_block_mask(model):
        inputs = packed_inputs(batch, pad_token_id, next(model.parameters()).dtype)
    else:
        inputs = unpacked_inputs(batch, pad_token_id)
    if by_prompt(adapter_config(model)):
        inputs["prompt_mask"] = prompt_mask(batch)
    device = input_device(model, processes())
    return {key: tensor.to(device) for key, tensor in inputs.items()}


def takes_block_mask(model: Model) -> bool:
    """Whether options can stand side by side in one sequence: tokens meet in attention alone, under a 4-D mask.

    Models with attention code of their own (Bloom, MPT, Falcon, GPT-J), a recurrent state or a convolution ignore such
    a mask, or the position ids, without a word; layers with a sliding window (Gemma) see all of it.
    """
    if adapter_config(model).is_prompt_learning:
        return False
    base = base_model_of(unwrapped(model))
    config = base.config.get_text_config()
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if slides and config.sliding_window < SMALLEST_WINDOW:
        return False
    reads_both = base._supports_attention_backend and "position_ids" in inspect.signature(type(base).forward).parameters
    return reads_both and not base._is_stateful and not any(isinstance(one, nn.Conv1d) for one in base.modules())


def context_length(model: Model) -> int | None:
    """The most tokens of a row that the model reads, without the virtual ones of prefix-tuning; None: any number."""
    length: int | None = getattr(unwrapped(model).config.get_text_config(), "max_position_embeddings", None)
    return length - getattr(adapter_config(model), "num_virtual_tokens", 0) if length else None


def unwrapped(model: Model) -> Model:
    """The model inside a wrapper that runs it, such as DeepSpeed's engine."""
    inner: Model = getattr(model, "module", model)
    return inner
