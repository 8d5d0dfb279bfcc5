"""Step time of each method beside PEFT's LoRA: same base, rows, batches and dtype, steps interleaved in one process.

    python benchmarks/step_time.py [--model smollm2_135m] [--methods lora,mosl,mosld] [--steps 20] [--json FILE]

Prints median seconds and trained tokens per second of each method, and the ratio of each step to LoRA's step on the
same rows (median, smallest, largest): ratios hold where absolute times drift.
"""

import argparse
import json
import statistics
import time

from rich import print as show
from rich.table import Table

import mosld
from mosld.config import load_config
from mosld.data import Dataset, load_dataset
from mosld.data.batches import encode_train
from mosld.data.mixing import Order
from mosld.data.prompts import PromptEncoder
from mosld.logging import Console
from mosld.quiet import silence_libraries
from mosld.stages import Stages, load_on_device
from mosld.training import Stepper


def make_stepper(model: str, method: str, dataset: Dataset) -> Stepper:
    """A fresh base with the method on it, ready for steps."""
    config = load_config([f"model={model}", f"method={method}"])
    base, tokenizer = load_on_device(config)
    stages = Stages(config, dataset, tokenizer, Console())
    dtype = base.dtype  # before full fine-tuning makes it float32
    return stages.make_stepper(stages.adapt(base), dtype)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--methods", default="lora,mosl,mosld", help="lora first: the others are compared with it")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    parser.add_argument("--json", help="write the figures to this file")
    given = parser.parse_args()
    silence_libraries()

    config = load_config([f"model={given.model}", "data=mixture", "source=bundled"])
    tokenizer = mosld.load_base(given.model)[1]
    encoder = PromptEncoder(tokenizer, config.model.prompt)
    dataset = load_dataset(config.data, config.source)
    examples = encode_train(dataset.train, encoder, tokenizer.eos_token_id).examples
    order = Order((len(examples),), (len(examples),), given.batch_size, seed=0)
    steppers = {method: make_stepper(given.model, method, dataset) for method in given.methods.split(",")}

    seconds: dict[str, list[float]] = {method: [] for method in steppers}
    tokens: list[int] = []
    for step in range(given.steps + 1):
        rows = [examples[i] for i in order.rows(step)]
        for method, stepper in steppers.items():
            started = time.perf_counter()
            result = stepper.step(rows, given.micro_batch_size, 1e-4, step)
            if step:  # the first step warms up
                seconds[method].append(time.perf_counter() - started)
        tokens += [result.tokens] if step else []

    reference = seconds[next(iter(seconds))]
    table = Table(
        title=f"{given.model}, {given.steps} steps of {given.batch_size} rows, {steppers['lora'].model.dtype}"
    )
    for column in ("method", "seconds a step", "tokens/s", "ratio to lora (min, max)"):
        table.add_column(column, justify="right")
    figures = {}
    for method, found in seconds.items():
        ratios = [ours / theirs for ours, theirs in zip(found, reference, strict=True)]
        rate = statistics.median(count / used for count, used in zip(tokens, found, strict=True))
        figures[method] = {
            "seconds": statistics.median(found), "tokens_per_second": rate, "ratio": statistics.median(ratios)
        }  # fmt: skip
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}, {max(ratios):.3f})"
        table.add_row(method, f"{statistics.median(found):.3f}", f"{rate:.0f}", spread)
    show(table)
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()
