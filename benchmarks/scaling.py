"""The tables of docs/scaling.md: what every method needs on 7B, 13B and 33B, and Table 5 of the MoSLD paper.

    python benchmarks/scaling.py [--models llama2_7b,llama2_13b,llama_33b] [--methods ...] > tables.md

Counted by `mosld.plan`, nothing is loaded: the paper's training (data=mixture source=hub training=paper) on 16 GPUs of
40 GiB. Some minutes.
"""

import argparse
from typing import Any

from mosld.config import group_options, load_config
from mosld.planning.estimate import estimate
from mosld.planning.keys import split_keys

SETTING = ["data=mixture", "source=hub", "training=paper", "gpus=16", "gpu_memory=40GiB"]
GIB = 2**30
COLUMNS = ("trainable", "of base", "GFLOPs a token", "activations", "recomputing", "peak", "recomputing", "fits")
TABLE_5 = {"lora": "0.419", "mola": "2.228", "mosld": "1.389"}  # trained parameters as printed, "B"


def planned(model: str, method: str) -> dict[str, Any]:
    """The plan of a method on a model."""
    keys, overrides = split_keys([f"model={model}", f"method={method}", *SETTING])
    return estimate(load_config(overrides), keys)


def row(plan: dict[str, Any]) -> str:
    """One method's line."""
    count, memory = plan["parameters"], plan["memory"]
    sizes = ("activations", "activations_checkpointing", "peak", "peak_checkpointing")
    share = 100 * count["trainable"] / count["base"]
    fits = plan["accelerate"] or "none"
    cells = [
        f"{count['trainable']:,}",
        f"{share:.3f} %",
        f"{plan['flops_per_token']['training'] / 1e9:.1f}",
        *("-" if memory[name] is None else f"{memory[name] / GIB:.1f}" for name in sizes),
        fits + (", recomputing" if plan["needs_checkpointing"] else ""),
    ]
    return f"| `{plan['method']}` | {' | '.join(cells)} |"


def table_5() -> list[str]:
    """The paper's Table 5: its matrices and parameters, and its unit put right."""
    lines = [
        "| method | matrices A | matrices B | forward parameters | trainable | printed, in B | of full |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for method in ("full", *TABLE_5):
        count = planned("llama2_7b", method)["parameters"]
        cells = [
            *(str(count["lora_matrices"][name]) for name in "AB"),
            f"{count['total']:,}",
            f"{count['trainable']:,}",
            TABLE_5.get(method, ""),
            f"{100 * count['trainable'] / count['base']:.3f} %",
        ]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Parse, plan, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="llama2_7b,llama2_13b,llama_33b")
    parser.add_argument("--methods", default=",".join(n for n in group_options()["method"] if "authors" not in n))
    given = parser.parse_args()
    for model in given.models.split(","):
        print(f"\n### {model}\n\n| method | {' | '.join(COLUMNS)} |\n|---|{'--:|' * (len(COLUMNS) - 1)}---|")
        for method in given.methods.split(","):
            print(row(planned(model, method)), flush=True)
    print("\n### Table 5, llama2_7b\n\n" + "\n".join(table_5()))


if __name__ == "__main__":
    main()
