"""Forward passes for scoring: eval mode, batches shared among the processes of a run, and an adapter's inputs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from mosld.adapters.config import adapter_config, by_prompt
from mosld.adapters.load import Model
from mosld.distributed.fsdp import input_device, reshard
from mosld.distributed.processes import processes
from mosld.evaluation.packing import Packed, packed_inputs, prompt_mask, unpacked_inputs

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
    adapter = adapter_config(model)
    if adapter.is_prompt_learning:
        inputs = unpacked_inputs(batch, pad_token_id)
    else:
        inputs = packed_inputs(batch, pad_token_id, next(model.parameters()).dtype)
        if by_prompt(adapter):
            inputs["prompt_mask"] = prompt_mask(batch)
    device = input_device(model, processes())
    return {key: tensor.to(device) for key, tensor in inputs.items()}


def context_length(model: Model) -> int | None:
    """The most tokens of a row that the model reads, without the virtual ones of prefix-tuning; None: any number."""
    length: int | None = getattr(unwrapped(model).config.get_text_config(), "max_position_embeddings", None)
    return length - getattr(adapter_config(model), "num_virtual_tokens", 0) if length else None


def unwrapped(model: Model) -> Model:
    """The model inside a wrapper that runs it, such as DeepSpeed's engine."""
    inner: Model = getattr(model, "module", model)
    return inner
