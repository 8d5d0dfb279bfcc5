"""Scores of the untrained base beside lm-evaluation-harness's, item by item, in fp32, on the same rows.

    python benchmarks/agreement.py --root DIR [--model smollm2_135m] [--limit 100]
        [--tasks arc_easy,arc_challenge,openbookqa] [--state FILE] [--json FILE]

The harness reads the rows through its own task files, which hold prompt, options and metrics. Compared are the option
chosen as a whole (acc) and per character (acc_norm), whether each is right, and the log-likelihoods; of gsm8k, which is
asked without examples, whether the generated number is right (strict-match and flexible-extract). Needs the extra
`lm-eval`. Exit code 1 if an item differs; each one that does is named with both records.

All items of the three sets take about an hour of one core. With --state every compared item is a line of that file, and
the same command goes on where it was stopped. However many items are compared, they are a random sample of the set.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from side_by_side import report

from mosld.common.process import silence_libraries
from mosld.config.compose import load_config
from mosld.data.dataset import load_dataset
from mosld.data.splits import sample
from mosld.data.tokens.prompts import PromptEncoder
from mosld.evaluation.generation import generate_answers
from mosld.evaluation.lm_eval.build import task_manager, task_on_rows
from mosld.evaluation.lm_eval.evaluate import run_lm_eval
from mosld.evaluation.lm_eval.tasks import TASK_MAPPINGS
from mosld.evaluation.multiple_choice import score_choices
from mosld.evaluation.scores import accuracy_score
from mosld.recipes.load import load_base_model

PART = 50  # items that are compared, and written to the state, at once
SAME = ("id", "prediction", "correct", "normalised", "normalised_correct")
SAME_GENERATED = ("id", "strict", "flexible")


def compare(name: str, rows: Any, model: Any, tokenizer: Any, batch_tokens: int) -> Iterator[dict[str, Any]]:
    """By item: what the harness says, whether we say the same, the largest difference of a log-likelihood."""
    manager = task_manager([name])
    generated = name == "gsm8k"
    task = task_on_rows(name, manager, {"test": rows}, shots=0 if generated else None)
    result = run_lm_eval(model, tokenizer, [task], manager, batch_tokens)
    encoded = PromptEncoder(tokenizer, "cloze").encode(rows, keep=(lambda _: ()) if generated else None)
    if generated:
        # 256 is lm-eval's length of an answer, too.
        answers: Any = generate_answers(model, encoded, tokenizer, 256, batch_tokens)
    else:
        answers = score_choices(model, encoded, tokenizer.pad_token_id, batch_tokens)
    ours = [asdict(one) for one in answers]
    for mine, theirs in zip(ours, result.records[name], strict=True):
        yield {
            "task": name,
            "id": mine["id"],
            "agrees": all(mine[key] == theirs[key] for key in (SAME_GENERATED if generated else SAME)),
            "gap": max(abs(a - b) for a, b in zip(mine.get("scores", [0]), theirs.get("scores", [0]), strict=True)),
            "ours": mine,
            "harness": theirs,
        }


def summary(name: str, items: list[dict[str, Any]], total: int) -> dict[str, Any]:
    """The line of the table for one task: how many agree in every field, and what the harness's scores are."""
    keys = ("strict", "flexible") if name == "gsm8k" else ("correct", "normalised_correct")
    raw, normalised = (accuracy_score([one["harness"][key] for one in items]) for key in keys)
    return {
        "task": name,
        "items": f"{len(items):,}" + (f" of {total:,}" if len(items) < total else ""),
        "agreeing": sum(one["agrees"] for one in items),
        "acc": f"{raw['accuracy']:.4f}",
        "acc_norm": f"{normalised['accuracy']:.4f}",
        "largest difference": f"{max(one['gap'] for one in items):.1e} nats",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="<task>/test.jsonl of each")
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--tasks", default="arc_easy,arc_challenge,openbookqa")
    parser.add_argument("--limit", type=int, help="items per task; default: all")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="padded tokens per forward pass, of both")
    parser.add_argument("--state", type=Path, help="every compared item, a line each; those in it are not done again")
    parser.add_argument("--json", help="write the table to this file")
    given = parser.parse_args()
    silence_libraries()
    names = given.tasks.split(",")
    tasks = f"data.tasks=[{','.join(TASK_MAPPINGS[name].task for name in names)}]"
    config = load_config(
        [f"model={given.model}", "model.dtype=float32", "source=local", f"source.root={given.root}", tasks]
    )
    dataset = load_dataset(config.data, config.source, training=False)
    state = given.state.read_text().splitlines() if given.state and given.state.is_file() else []
    items = [json.loads(line) for line in state]
    model, tokenizer = load_base_model(config.model)
    tests = {name: dataset.tasks[TASK_MAPPINGS[name].task].test for name in names}
    for name, rows in tests.items():
        wanted = min(given.limit or len(rows), len(rows))
        for end in range(PART, wanted + PART, PART):  # samples grow: each holds the one before
            done = {one["id"] for one in items if one["task"] == name}
            part = [row for row in sample(rows, min(end, wanted), "test") if row.id not in done]
            new = list(compare(name, part, model, tokenizer, given.batch_tokens)) if part else []
            items += new
            if given.state and new:
                with given.state.open("a") as file:
                    file.writelines(json.dumps(one) + "\n" for one in new)
    table = [
        summary(name, own, len(tests[name])) for name in names if (own := [one for one in items if one["task"] == name])
    ]
    report(f"{given.model}, untrained, float32, prompt=cloze, beside lm-evaluation-harness", table, given.json)
    differing = [one for one in items if not one["agrees"]]
    for one in differing:
        print(f"{one['task']}: {json.dumps(one)}", file=sys.stderr)
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
