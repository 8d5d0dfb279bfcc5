"""Scores of the untrained base on every set below a folder, with standard errors.

    python benchmarks/zero_shot.py --root DIR [--model smollm2_135m] [--prompts cloze,letter]
        [--tasks obqa,csqa,arc_e,arc_c,gsm8k,mmlu] [--shots 0,5] [--limit N] [--generated-limit N] [--dtype auto]
        [--json FILE]

Rows are read, put and scored as in every run. With a limit the items are the same ones for every model and prompt.
Lines that already stand in the file of --json are kept, not scored again. `--shots` are for mmlu.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from side_by_side import report

from mosld.common.process import silence_libraries
from mosld.config.compose import load_config
from mosld.data.dataset import load_dataset
from mosld.data.tasks import TASKS
from mosld.recipes.context import RunContext
from mosld.recipes.load import load_base_model
from mosld.runs.console import Console


def questions(given: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Task, prompt format and number of examples of each line of the table."""
    prompts, shots = given.prompts.split(","), [int(count) for count in given.shots.split(",")]
    for task in given.tasks.split(","):
        for count in shots if TASKS[task].examples_split else [0]:
            for prompt in ["generation"] if TASKS[task].generated else prompts:  # worked solutions are put in one way
                yield task, prompt, count


def scored(task: str, prompt: str, shots: int, given: argparse.Namespace, loaded: Any, console: Console) -> Any:
    """One line of the table."""
    generated = prompt == "generation"
    options = [f"model={given.model}", f"model.dtype={given.dtype}", "source=local", f"source.root={given.root}"]
    config = load_config([*options, *([] if generated else [f"prompt={prompt}"])])
    evaluation = replace(config.evaluation, shots=shots)
    config = replace(config, data=replace(config.data, tasks=[task]), evaluation=evaluation)
    dataset = load_dataset(config.data, config.source, training=False, shots=shots)
    context = RunContext(config, dataset, loaded[1], console)
    asked = context.encode_questions("test", given.generated_limit if generated else given.limit)
    score = context.score(loaded[0], asked, f"{task} {prompt}").scores[task]
    total = len(dataset.tasks[task].test)
    raw = {"accuracy": score["accuracy_raw"], "stderr": score["stderr_raw"]} if "accuracy_raw" in score else None
    return {
        "task": task,
        "prompt": prompt + (f", {shots}-shot" if shots else ""),
        "items": f"{score['n']:,}" + (f" of {total:,}" if score["n"] < total else ""),
        "accuracy, %": percent(score),
        "by the whole option, %": percent(raw) if raw else "",
    }


def percent(score: dict[str, Any]) -> str:
    """An accuracy with its standard error."""
    return f"{100 * score['accuracy']:.1f} ± {100 * score['stderr']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="<task>/<split>.jsonl of each task")
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--prompts", default="cloze,letter")
    parser.add_argument("--tasks", default="obqa,csqa,arc_e,arc_c,gsm8k,mmlu")
    parser.add_argument("--shots", default="0,5", help="solved examples before a question of mmlu")
    parser.add_argument("--limit", type=int, help="multiple-choice items per task; default: all")
    parser.add_argument("--generated-limit", type=int, help="generated answers per task; default: all")
    parser.add_argument("--json", help="write the table to this file, after every line")
    given = parser.parse_args()
    silence_libraries()
    kept = json.loads(Path(given.json).read_text())["rows"] if given.json and Path(given.json).is_file() else []
    wanted = [one for one in questions(given) if line(one) not in {(row["task"], row["prompt"]) for row in kept}]
    loaded = (
        load_base_model(load_config([f"model={given.model}", f"model.dtype={given.dtype}"]).model) if wanted else None
    )
    dtype = f", {str(loaded[0].dtype).removeprefix('torch.')}" if loaded else ""
    title = f"{given.model}, untrained{dtype}: accuracy and its standard error on real rows"
    for one in wanted:
        kept.append(scored(*one, given, loaded, Console()))
        report(title, kept, given.json)


def line(one: tuple[str, str, int]) -> tuple[str, str]:
    """What names a line of the table."""
    return one[0], one[1] + (f", {one[2]}-shot" if one[2] else "")


if __name__ == "__main__":
    main()
