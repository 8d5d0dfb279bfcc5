"""Training steps of ever new shapes, by how many kernels oneDNN keeps: their rate, early and late, and the memory.

    python benchmarks/kernel_cache.py [--kernels 1024,128,64,32] [--steps 60] [--method lora] [--json FILE]

Each number of kernels is a process of its own, one after the other, on the same rows of random tokens; the rate is of
the process's CPU time, in the second to the fourth tenth of the steps and in the last three. 1024 is oneDNN's own
number; `mosld.common.kernel_cache` says why it matters. Every process must reach the same weights to the last bit.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence

from side_by_side import arguments, report

from mosld.common.kernel_cache import LAYER, PRIMITIVES

ROWS = 16
LENGTHS = (10, 60)


def train(flags: argparse.Namespace) -> None:
    """Take the steps and print the figures as JSON."""
    import psutil
    from wide_layers import rows_of_lengths, stepper

    import mosld

    base, tokenizer = mosld.load_base(flags.model)
    taken = stepper(base, flags.method, tokenizer.pad_token_id, targets=flags.targets)
    draw = random.Random(0)
    seconds, tokens = [], []
    for number in range(flags.steps):
        lengths = [draw.randint(*LENGTHS) for _ in range(ROWS)]
        rows = rows_of_lengths(lengths, number)
        started = time.process_time()
        taken.step(rows, ROWS, 1e-3, number)
        seconds.append(time.process_time() - started)
        tokens.append(sum(lengths))
    tenth = flags.steps // 10

    def rate(start: int, stop: int) -> float:
        """Tokens a second of CPU time from one tenth of the steps to another."""
        part = slice(start * tenth, stop * tenth)
        return sum(tokens[part]) / sum(seconds[part])

    weights = sum(weight.double().sum().item() for weight in taken.model.parameters() if weight.requires_grad)
    memory = psutil.Process().memory_info().rss
    print(json.dumps({"early": rate(1, 4), "late": rate(7, 10), "bytes": memory, "weights": weights}))


def measure(kernels: str, options: Sequence[str]) -> dict[str, float]:
    """The figures of a process that keeps so many kernels."""
    environment = {**os.environ, PRIMITIVES: kernels, LAYER: kernels}
    done = subprocess.run(
        [sys.executable, __file__, *options, "--worker"], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run a process for each number of kernels, print a row for each."""
    parser = arguments(__doc__)
    parser.add_argument("--kernels", default="1024,128,64,32")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--targets", default="all")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        return train(flags)
    options = [f"--{name}={getattr(flags, name)}" for name in ("steps", "model", "method", "targets")]
    measured = {kernels: measure(kernels, options) for kernels in flags.kernels.split(",")}
    first = next(iter(measured.values()))
    assert len({figures["weights"] for figures in measured.values()}) == 1, "the weights differ"
    rows = [
        {
            "kernels": kernels,
            "tokens a second, early": round(figures["early"]),
            "late": round(figures["late"]),
            "late, ratio": figures["late"] / first["late"],
            "memory, GiB": figures["bytes"] / 2**30,
            "memory, ratio": figures["bytes"] / first["bytes"],
        }
        for kernels, figures in measured.items()
    ]
    report(f"{flags.steps} steps of {flags.model} with {flags.method}, targets {flags.targets}", rows, flags.json)
    return None


if __name__ == "__main__":
    main()
