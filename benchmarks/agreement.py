"""Scores of the untrained base beside lm-evaluation-harness's, item by item, in fp32, on the same rows.

    python benchmarks/agreement.py --root ../shared/data [--model smollm2_135m] [--limit 100] [--json FILE]
        [--tasks arc_easy,arc_challenge,openbookqa]

The harness reads the rows through its own task files, which hold prompt, options and metrics. Compared are the option
chosen as a whole (acc) and per character (acc_norm), whether each is right, and the log-likelihoods. Needs the extra
`lm-eval`. Exit code 1 if an item differs; each one that does is named with its margin.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich import print as show
from rich.table import Table

from mosld.config import load_config
from mosld.data import load_dataset
from mosld.data.prompts import PromptEncoder
from mosld.data.splits import sample
from mosld.evaluation import harness, predict
from mosld.evaluation.harness_tasks import KNOWN, manager, on_rows
from mosld.quiet import silence_libraries
from mosld.stages import load_on_device

SAME = ("id", "prediction", "correct", "normalised", "normalised_correct")


def compare(name: str, rows: Any, model: Any, tokenizer: Any, batch_tokens: int, batch_size: int) -> dict[str, Any]:
    """One task: items, how many agree in every field, the largest difference of a log-likelihood, what differs."""
    index = manager([name])
    verdict = harness.judge(model, tokenizer, [on_rows(name, index, {"test": rows})], index, batch_size)
    encoded = PromptEncoder(tokenizer, "cloze").encode(rows)
    ours = [found.as_json() for found in predict(model, encoded, tokenizer.pad_token_id, batch_tokens)]
    pairs = list(zip(ours, verdict.records[name], strict=True))
    differing = [(mine, theirs) for mine, theirs in pairs if any(mine[key] != theirs[key] for key in SAME)]
    gaps = [abs(a - b) for mine, theirs in pairs for a, b in zip(mine["scores"], theirs["scores"], strict=True)]
    return {
        "task": name,
        "items": len(pairs),
        "agreeing": len(pairs) - len(differing),
        "acc": verdict.scores[name]["accuracy_raw"],
        "acc_norm": verdict.scores[name]["accuracy"],
        "largest_difference": max(gaps),
        "differing": [{"ours": mine, "harness": theirs} for mine, theirs in differing],
    }


def main() -> int:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="<task>/test.jsonl of each")
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--tasks", default="arc_easy,arc_challenge,openbookqa")
    parser.add_argument("--limit", type=int, help="items per task; default: all")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="of own scoring")
    parser.add_argument("--batch-size", type=int, default=16, help="of the harness")
    parser.add_argument("--json", help="write the figures to this file, after every task")
    given = parser.parse_args()
    silence_libraries()
    names = given.tasks.split(",")
    own = [KNOWN[name].task for name in names]
    tasks = f"data.tasks=[{','.join(own)}]"
    config = load_config(
        [f"model={given.model}", "model.dtype=float32", "source=local", f"source.root={given.root}", tasks]
    )
    dataset = load_dataset(config.data, config.source, training=False)
    model, tokenizer = load_on_device(config)
    table = Table(title=f"{given.model}, float32, prompt=cloze, against lm-evaluation-harness")
    for column in ("task", "items", "agreeing", "acc", "acc_norm", "largest difference in nats"):
        table.add_column(column, justify="left" if column == "task" else "right")
    found = []
    for name, task in zip(names, own, strict=True):
        rows = sample(dataset.tasks[task].test, given.limit, "test")
        one = compare(name, rows, model, tokenizer, given.batch_tokens, given.batch_size)
        figures = [f"{one['acc']:.4f}", f"{one['acc_norm']:.4f}", f"{one['largest_difference']:.1e}"]
        table.add_row(name, str(one["items"]), str(one["agreeing"]), *figures)
        found.append(one)
        if given.json:
            Path(given.json).write_text(json.dumps(found, indent=2) + "\n")
    show(table)
    for one in found:
        for pair in one["differing"]:
            print(f"{one['task']}: {json.dumps(pair)}", file=sys.stderr)
    return int(any(one["differing"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
