"""Scores of the untrained base on every set below a folder, with standard errors.

    python benchmarks/zero_shot.py --root ../shared/data [--model smollm2_135m] [--prompts cloze,letter]
        [--tasks obqa,csqa,arc_e,arc_c,gsm8k] [--limit N] [--generated-limit N] [--dtype auto] [--json FILE]

Rows are read, put and scored as in every run. With a limit the items are the same ones for every model and prompt.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from rich import print as show
from rich.table import Table

from mosld.config import load_config
from mosld.data import TASKS, load_dataset
from mosld.logging import Console
from mosld.quiet import silence_libraries
from mosld.stages import Stages, load_on_device


def main() -> None:
    """Parse, score task after task, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="<task>/<split>.jsonl of each task")
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--prompts", default="cloze,letter")
    parser.add_argument("--tasks", default="obqa,csqa,arc_e,arc_c,gsm8k")
    parser.add_argument("--limit", type=int, help="multiple-choice items per task; default: all")
    parser.add_argument("--generated-limit", type=int, help="generated answers per task; default: all")
    parser.add_argument("--json", help="write the figures to this file, after every task")
    given = parser.parse_args()
    silence_libraries()
    console, found = Console(), list[dict[str, Any]]()
    loaded = None
    for task in given.tasks.split(","):
        for prompt in given.prompts.split(","):
            generated = TASKS[task].generated
            if generated and prompt != given.prompts.split(",")[0]:
                continue  # worked solutions are put in one way
            overrides = [
                f"model={given.model}", f"model.dtype={given.dtype}", "source=local", f"source.root={given.root}",
                f"data.tasks=[{task}]", f"prompt={prompt}",
            ]  # fmt: skip
            config = load_config(overrides)
            loaded = loaded or load_on_device(config)
            model, tokenizer = loaded
            dataset = load_dataset(config.data, config.source, training=False)
            stages = Stages(config, dataset, tokenizer, console)
            started = time.perf_counter()
            questions = stages.questions("test", given.generated_limit if generated else given.limit)
            evaluation = stages.score(model, questions, f"{task} {prompt}")
            seconds = time.perf_counter() - started
            one = {"task": task, "prompt": "generation" if generated else prompt, **evaluation.scores[task]}
            found.append({**one, "seconds": round(seconds, 1)})
            if given.json:
                dtype = str(model.dtype).removeprefix("torch.")
                tree = {"model": given.model, "dtype": dtype, "scores": found}
                Path(given.json).write_text(json.dumps(tree, indent=2) + "\n")
    table = Table(title=f"{given.model}, untrained: accuracy and standard error in %")
    for column in ("task", "prompt", "items", "accuracy", "raw"):
        table.add_column(column, justify="left" if column in ("task", "prompt") else "right")
    for one in found:
        raw = f"{100 * one['accuracy_raw']:.1f} ± {100 * one['stderr_raw']:.1f}" if "accuracy_raw" in one else ""
        accuracy = f"{100 * one['accuracy']:.1f} ± {100 * one['stderr']:.1f}"
        table.add_row(one["task"], one["prompt"], str(one["n"]), accuracy, raw)
    show(table)


if __name__ == "__main__":
    main()
