"""Passes over the questions: in eval mode, in batches that the processes of a run share, with what an adapter needs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from mosld.adapters.config import adapter_config, by_prompt
from mosld.distributed.fsdp import device_of, rest
from mosld.distributed.processes import processes
from mosld.evaluation.packing import Packed, packed_inputs, prompt_mask, spread_inputs

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Progress = Callable[[Sequence[Any]], Iterable[Any]]


@contextmanager
def scoring(model: Any) -> Iterator[None]:
    """Eval mode without gradients; the model's training mode is restored afterwards."""
    was_training = model.training
    model.eval()
    # What FSDP puts together in inference mode can never be trained on.
    sharded = processes().sharded
    with torch.no_grad() if sharded else torch.inference_mode():
        yield
    if sharded:
        rest(model)
    model.train(was_training)


def in_batches(
    work: Sequence[list[Item]], answer: Callable[[list[Item], bool], Sequence[Answer]], progress: Progress
) -> dict[int, Answer]:
    """What `answer` makes of every item, by the item's id(); the processes of a run share the batches.

    Args:
        work: the batches, the same in every process.
        answer: gives one answer for each item of a batch, which can be sent to another process; False: the batch is
            run in step with the others alone, and takes no note of anything.
        progress: wraps this process's batches, for a progress bar.
    """
    group = processes()
    own = [answer(batch, counts) for batch, counts in progress(group.shard(list(work)))]
    found: dict[int, Answer] = {}
    for rank, theirs in enumerate(group.all_gather(own)):
        for batch, answers in zip(work[rank :: group.count], theirs, strict=False):  # last may be one run in step
            found.update(zip(map(id, batch), answers, strict=True))
    return found


def inputs_for(model: Any, batch: Sequence[Packed], pad: int) -> dict[str, torch.Tensor]:
    """The keyword arguments of the model's forward on packed questions, on its device."""
    adapter, weight, device = adapter_config(model), next(model.parameters()), device_of(model, processes())
    if adapter.is_prompt_learning:
        inputs = spread_inputs(batch, pad)
    else:
        inputs = packed_inputs(batch, pad, weight.dtype)
        if by_prompt(adapter):
            inputs["prompt_mask"] = prompt_mask(batch)
    return {key: value.to(device) for key, value in inputs.items()}
