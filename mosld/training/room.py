"""Whether a step on a processor needs so little memory that it need not be tried: a bound, and what is free.

The bound is meant to lie above what a step takes, not near it (`mosld.plan` counts it exactly, and takes longer for it
than a trial of a small model). Only where it is a small part of the free memory does it replace the trial.
"""

import math
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from mosld.adapters.bank import ExpertBank
from mosld.adapters.load import trained_parameters
from mosld.data.encoding import Example
from mosld.training.step import Stepper

SHARE = 1 / 2  # of the free memory that the bounds of all processes may be: others need some, too
SIDES = 8  # bytes a number: in float32, and as much again for what is made on the way from one product to the next
SCORES = 12  # of attention: scores, their softmax, and a gradient
LOGITS = 24  # logits, their float32 copy, their softmax, and a gradient of each
TRAINED = 24  # a gradient, AdamW's two moments, and what its update makes
WEIGHTS = 4  # products in another type than that of the weights copy them
LIBRARIES = 256 * 2**20  # scratch memory of their kernels
ROOT = Path("/")


def surely_fits(stepper: Stepper, examples: Sequence[Example], size: int) -> bool:
    """Whether micro-batches of up to `size` rows fit into every process's memory beyond doubt; the same in all."""
    group = stepper.processes
    if group.device.type != "cpu" or group.sharded:
        return False
    needed, free = zip(*group.all_gather((bound(stepper.model, examples, size), free_memory())), strict=True)
    return sum(needed) <= SHARE * min(free)  # as if all were on one machine


def bound(model: Any, examples: Sequence[Example], size: int) -> float:
    """Bytes that a step of micro-batches of up to `size` rows does not exceed, the weights themselves not counted.

    Every number that a matrix product takes or gives is counted for every token as if all were kept for backward. For
    rows longer than the model was made for nothing is promised: infinite.
    """
    whole: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    prefix = getattr(model.active_peft_config, "num_virtual_tokens", None) if isinstance(model, PeftModel) else None
    config = whole.config.get_text_config()
    rows, length = min(size, len(examples)), max(len(example.tokens) for example in examples) + (prefix or 0)
    answer = max(len(example.tokens) - example.answer_start for example in examples)
    if length > (getattr(config, "max_position_embeddings", None) or math.inf):
        return math.inf
    heads = config.num_hidden_layers * config.num_attention_heads
    return (
        SIDES * rows * length * _sides(model, whole)
        + SCORES * rows * heads * length**2
        + LOGITS * rows * answer * config.vocab_size
        + TRAINED * sum(parameter.numel() for parameter in trained_parameters(model).values())
        + WEIGHTS * sum(parameter.numel() for parameter in model.parameters())
        + LIBRARIES
    )


def _sides(model: Any, whole: Any) -> int:
    """How many numbers a token has before and after all matrices together, embedding and head left out."""
    vocabulary = {id(part.weight) for part in (whole.get_input_embeddings(), whole.get_output_embeddings()) if part}
    found = sum(_of(p) for p in model.parameters() if id(p) not in vocabulary)
    banks = [module for module in model.modules() if isinstance(module, ExpertBank)]
    # Each expert that a token takes may have numbers of its own, as in feed-forward blocks.
    return found + sum((bank.config.top_k or bank.experts) * (_of(bank.A) + _of(bank.B)) for bank in banks)


def _of(weight: nn.Parameter) -> int:
    """Rows and columns of a matrix, or of every matrix in a stack."""
    *stack, rows, columns = (1, *weight.shape) if weight.dim() < 2 else weight.shape
    return math.prod(stack) * (rows + columns)


def free_memory() -> float:
    """Bytes that this process can still take of the machine, its control groups and its own limits; 0 if unknown."""
    return min([*_machine(), *_groups(), *_limits()], default=0)


def _machine() -> Iterator[int]:
    found = _numbers(ROOT / "proc/meminfo").get("MemAvailable:")
    yield 0 if found is None else 1024 * found


def _groups() -> Iterator[int]:
    """Of every control group that has this process in it. Where only the root is seen, as in a container, that one."""
    text = _read(ROOT / "proc/self/cgroup")
    for line in text.splitlines():
        _, kinds, place = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        mount = ROOT / "sys/fs/cgroup" / kinds
        limit, used = ("limit_in_bytes", "usage_in_bytes") if kinds else ("max", "current")
        path = mount / place.lstrip("/")
        for folder in (path, *path.parents):
            if not folder.is_relative_to(mount):
                break
            found = _read(folder / f"memory.{limit}").strip()
            if found.isdigit():
                cached = _numbers(folder / "memory.stat").get("inactive_file", 0)  # given back when asked for
                yield int(found) - int(_read(folder / f"memory.{used}") or 0) + cached


def _limits() -> Iterator[int]:
    """Of the address space and of the data segment."""
    status = _numbers(ROOT / "proc/self/status")
    for limit, used in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            yield most - 1024 * status.get(used, 0)


def _numbers(path: Path) -> dict[str, int]:
    """The first number of each line, by its first word."""
    words = (line.split() for line in _read(path).splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
