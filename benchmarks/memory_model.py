"""The plan's memory model against the peak that the operating system saw, on CPU, or the allocator of CUDA.

    python benchmarks/memory_model.py [--model smollm2_135m] [--methods lora,mosld,mola,full] [--shapes 8x256,16x128]
    python benchmarks/memory_model.py --model llama2_7b model.kind=random    # weights made on the device

For each method a fresh process takes each case in turn, with and without gradient checkpointing, a shape being rows x
tokens:

1. a model of two layers, else of the same dimensions, takes two steps and is freed: what stays resident is the
   libraries' own (code, kernels compiled for these shapes, scratch memory that is kept for the next product);
2. the model is loaded and takes two steps; before the second the kernel's record of the largest resident size is reset.

Measured is that peak of the second step less what was resident after 1; predicted is what `mosld.plan` says of the same
step. On CUDA, 1 is left out, and torch.cuda.max_memory_allocated of the second step is the peak.
Linux only (/proc/self/clear_refs). glibc's malloc is told to give freed blocks back (MALLOC_MMAP_THRESHOLD_): left
alone it keeps some, and the resident size says more of malloc than of the step.
"""

import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from side_by_side import DEVICE, arguments, report

from mosld.config.compose import load_config
from mosld.config.method_checks import experts_of
from mosld.config.schema import Config

ANSWER = 8  # tokens of each row that have a loss
STATUS = Path("/proc/self/status")
MIB = 2**20
KEEPS_NOTHING = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # malloc gives freed blocks back


def cases(model: str, method: str, shapes: Sequence[str], more: Sequence[str]) -> Iterator[tuple[Config, int, int]]:
    """Config, rows and tokens of each measurement of a method."""
    for checkpointing in ("false", "true"):
        for rows, length in (map(int, shape.split("x")) for shape in shapes):
            sizes = [f"training.batch_size={rows}", f"training.micro_batch_size={rows}"]
            asked = [f"model={model}", f"method={method}", f"training.gradient_checkpointing={checkpointing}"]
            yield load_config([*asked, *sizes, *more]), rows, length


def shallow(config: Config) -> Config:
    """The same dimensions with random weights in two layers; where experts differ by layer, in one of each number."""
    experts = experts_of(config.method, config.allocation)
    parts = len(experts) if isinstance(experts, list) else 1
    shape = {**config.model.shape, "num_hidden_layers": max(2, parts)}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, kind="random", path=None, shape=shape))


def measure(config: Config, rows: int, length: int) -> int:
    """Peak bytes of a step on CUDA; on CPU less those that libraries keep after such a step of a shallow model."""
    if DEVICE.type == "cuda":
        return take_steps(config, rows, length)
    take_steps(shallow(config), rows, length)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    return take_steps(config, rows, length) - before


def take_steps(config: Config, rows: int, length: int) -> int:
    """Peak bytes of the second of two steps."""
    from mosld.data.dataset import Dataset
    from mosld.data.rows import Row
    from mosld.data.tokens.encoding import Example
    from mosld.recipes.context import RunContext, make_stepper
    from mosld.recipes.load import load_base_model
    from mosld.runs.console import Console

    with DEVICE:
        base, tokenizer = load_base_model(config.model)
    stepper = make_stepper(RunContext(config, Dataset({}, "bundled"), tokenizer, Console()), base)
    examples = [Example(Row("", "", "", "", (), 0), list(range(1, length + 1)), length - ANSWER)] * rows
    return second_step_peak(lambda number: stepper.step(examples, rows, 1e-4, number))


def second_step_peak(step: Callable[[int], object]) -> int:
    """Peak bytes of the second of two steps: the first makes what is kept, the moments among it."""
    step(0)
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step(1)
        return torch.cuda.max_memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    step(1)
    return resident("VmHWM")


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def predict(config: Config, length: int) -> int:
    """The plan's peak of the same step."""
    from mosld.planning.layouts import peak
    from mosld.planning.measure import measure_step

    needs = measure_step(config, length, ANSWER, gpus=int(DEVICE.type == "cuda"))
    cost = needs.saving if config.training.gradient_checkpointing else needs.plain
    assert cost is not None
    return peak(needs.sizes, cost)


def fresh(model: str, method: str, shapes: str, more: Sequence[str]) -> list[int]:
    """The measured bytes of each case of a method, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **KEEPS_NOTHING}
    command = [sys.executable, __file__, "--one", "--model", model, "--methods", method, "--shapes", shapes, *more]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    measured: list[int] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--methods", default="lora,mosld,mola,full")
    parser.add_argument("--shapes", default="8x256,16x128")
    parser.add_argument("more", nargs="*", help="keys of the config, as in model.dtype=float32")
    parser.add_argument("--one", action="store_true", help="measure here and print the bytes alone")
    flags = parser.parse_args()
    from mosld.common.process import silence_libraries

    silence_libraries()
    shapes = flags.shapes.split(",")
    if flags.one:
        print(json.dumps([measure(*case) for case in cases(flags.model, flags.methods, shapes, flags.more)]))
        return
    rows = []
    for method in flags.methods.split(","):
        measured = fresh(flags.model, method, flags.shapes, flags.more)
        asked = cases(flags.model, method, shapes, flags.more)
        for (config, count, length), size in zip(asked, measured, strict=True):
            predicted = predict(config, length)
            rows.append(
                {
                    "method": method,
                    "recomputing": "yes" if config.training.gradient_checkpointing else "no",
                    "rows x tokens": f"{count} x {length}",
                    "predicted, MiB": predicted / MIB,
                    "measured, MiB": size / MIB,
                    "predicted / measured": predicted / size,
                }
            )
            print(*rows[-1].values(), file=sys.stderr, flush=True)
    report(f"Peak memory of a training step, {flags.model}", rows, flags.json)


if __name__ == "__main__":
    main()
