"""The plan's memory model against the peak that the operating system saw, on the processor.

    python benchmarks/memory_model.py [--model smollm2_135m] [--methods lora,mosld,full] [--shapes 4x128,8x256]

For each method, with and without gradient checkpointing, and each shape (rows x tokens) a fresh process loads the
model and takes two steps; the kernel's record of the largest resident size is reset between them. Measured is that peak
of the second step less the resident size before the model was loaded. Predicted is what `mosld.plan` says of the same
step. Linux alone (/proc/self/clear_refs). glibc's malloc is told to give freed blocks back (MALLOC_MMAP_THRESHOLD_):
left alone it keeps some, and the resident size says more of malloc than of the step.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich import print as show
from rich.table import Table

from mosld.config import Config, load_config

ANSWER = 8  # tokens of each row that have a loss
STATUS = Path("/proc/self/status")


def configured(model: str, method: str, checkpointing: bool, rows: int) -> Config:
    """The config of one measurement."""
    sizes = [f"training.batch_size={rows}", f"training.micro_batch_size={rows}"]
    checkpoint = f"training.gradient_checkpointing={str(checkpointing).lower()}"
    return load_config([f"model={model}", f"method={method}", checkpoint, *sizes])


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(config: Config, rows: int, length: int) -> int:
    """Peak resident bytes of the second step, over those before the model was loaded."""
    from mosld.quiet import silence_libraries

    silence_libraries()
    take_steps(configured("tiny", "mosld", False, 2), 2, 16)  # loads the libraries' kernels
    before = resident("VmRSS")
    return take_steps(config, rows, length) - before


def take_steps(config: Config, rows: int, length: int) -> int:
    """Peak resident bytes of the second of two steps."""
    from mosld.data import Dataset
    from mosld.data.batches import Example
    from mosld.data.rows import Row
    from mosld.logging import Console
    from mosld.stages import Stages, load_on_device

    base, tokenizer = load_on_device(config)
    dtype = base.dtype
    stages = Stages(config, Dataset({}, "bundled"), tokenizer, Console())
    stepper = stages.make_stepper(stages.adapt(base), dtype)
    examples = [Example(Row("", "", "", "", (), 0), list(range(1, length + 1)), length - ANSWER)] * rows
    stepper.step(examples, rows, 1e-4, 0)
    Path("/proc/self/clear_refs").write_text("5")
    stepper.step(examples, rows, 1e-4, 1)
    return resident("VmHWM")


def predict(config: Config, length: int) -> int:
    """The plan's peak of the same step."""
    from mosld.planning.layouts import peak
    from mosld.planning.needs import needs

    found = needs(config, length, ANSWER, gpus=0)
    cost = found.saving if config.training.gradient_checkpointing else found.plain
    assert cost is not None
    return peak(found.sizes, cost)


def fresh(arguments: list[str]) -> int:
    """What this script measures in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--one", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--methods", default="lora,mosld,full")
    parser.add_argument("--shapes", default="4x128,8x256")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        model, method, checkpointing, rows, length = given.one
        print(measure(configured(model, method, checkpointing == "True", int(rows)), int(rows), int(length)))
        return

    table = Table(title=f"{given.model}: peak memory of a step in MiB, on the processor")
    for column in ("method", "checkpointing", "rows x tokens", "predicted", "measured", "ratio"):
        table.add_column(column, justify="right")
    figures: list[dict[str, Any]] = []
    for method in given.methods.split(","):
        for checkpointing in (False, True):
            for shape in given.shapes.split(","):
                rows, length = map(int, shape.split("x"))
                measured = fresh([given.model, method, str(checkpointing), str(rows), str(length)])
                predicted = predict(configured(given.model, method, checkpointing, rows), length)
                figures.append(
                    {"method": method, "checkpointing": checkpointing, "rows": rows, "length": length,
                     "predicted": predicted, "measured": measured, "ratio": predicted / measured}
                )  # fmt: skip
                cells = [f"{predicted / 2**20:.0f}", f"{measured / 2**20:.0f}", f"{predicted / measured:.3f}"]
                table.add_row(method, "yes" if checkpointing else "no", shape, *cells)
                print(f"{method} {checkpointing} {shape}: {' '.join(cells)}", file=sys.stderr)
    show(table)
    if given.json:
        Path(given.json).write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
