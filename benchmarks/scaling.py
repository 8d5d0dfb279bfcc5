"""Write the tables of docs/reference/scaling.md and docs/how-to/reproducing.md: needs of methods and experiments.

    python benchmarks/scaling.py            # writes both documents between their marks
    python benchmarks/scaling.py --check    # writes nothing; ends with 1 if a document says otherwise

Counted by `mosld.plan`, nothing is loaded: the paper's training (source=hub training=paper) on 16 GPUs of 40 GiB.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tables import put

from mosld.config.compose import load_config
from mosld.config.groups import group_options
from mosld.config.sweep import plan_sweep
from mosld.planning.arguments import split_keys
from mosld.planning.estimate import estimate
from mosld.planning.jobs import estimate_jobs, remembering, summed
from mosld.planning.layouts import first_fitting
from mosld.planning.measure import StepNeeds
from mosld.planning.view import layout_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
MACHINES = ["gpus=16", "gpu_memory=40GiB"]
SETTING = ["data=mixture", "source=hub", "training=paper", *MACHINES]
MODELS = ("llama2_7b", "llama2_13b", "llama_33b")
GIB = 2**30
COLUMNS = ("trainable", "of base", "GFLOPs a token", "activations", "recomputing", "peak", "recomputing", "fits")
TABLE_5 = {"lora": "0.419", "mola": "2.228", "mosld": "1.389"}  # trained parameters as printed, "B"

Measure = Callable[..., StepNeeds]


def planned(model: str, method: str, measure: Measure) -> dict[str, Any]:
    """The plan of a method on a model."""
    keys, overrides = split_keys([f"model={model}", f"method={method}", *SETTING])
    return estimate(load_config(overrides), keys, measure)


def of_model(model: str, measure: Measure) -> str:
    """The table of a model: a line a method."""
    lines = [f"| method | {' | '.join(COLUMNS)} |", f"|---|{'--:|' * (len(COLUMNS) - 1)}---|"]
    for method in (name for name in group_options()["method"] if "authors" not in name):
        plan = planned(model, method, measure)
        count, memory = plan["parameters"], plan["memory"]
        sizes = ("activations", "activations_checkpointing", "peak", "peak_checkpointing")
        cells = [
            f"{count['trainable']:,}",
            f"{100 * count['trainable'] / count['base']:.3f} %",
            f"{plan['flops_per_token']['training'] / 1e9:.1f}",
            *("-" if memory[name] is None else f"{memory[name] / GIB:.1f}" for name in sizes),
            layout_of(plan)[0],
        ]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_5(measure: Measure) -> str:
    """The paper's Table 5: its matrices and parameters, and its unit put right."""
    lines = [
        "| method | matrices A | matrices B | forward parameters | trainable | printed, in B | of full |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for method in ("full", *TABLE_5):
        count = planned("llama2_7b", method, measure)["parameters"]
        cells = [
            *(str(count["lora_matrices"][name]) for name in "AB"),
            f"{count['total']:,}",
            f"{count['trainable']:,}",
            TABLE_5.get(method, ""),
            f"{100 * count['trainable'] / count['base']:.3f} %",
        ]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def costs(measure: Measure) -> str:
    """What each experiment costs at the paper's scale, and all of them with no run made twice."""
    lines = [
        "| | runs | hours | GPU-hours | fit | fit on no layout, of 40 / 80 GiB |",
        "|---|--:|--:|--:|---|--:|",
    ]
    everything: dict[str, dict[str, Any]] = {}
    for name in (name for name in group_options()["experiment"] if name.startswith(("table", "fig"))):
        plans = _jobs([f"experiment={name}", *MACHINES], measure)
        lines.append(_cost(f"`{name}`", plans))
        everything |= {plan["run"]: plan for plan in plans}
    lines.append(_cost("all, each run once", list(everything.values())))
    return "\n".join(lines)


def _jobs(arguments: list[str], measure: Measure) -> list[dict[str, Any]]:
    keys, overrides = split_keys(arguments)
    return estimate_jobs(plan_sweep(overrides), keys, measure)


def _cost(title: str, plans: list[dict[str, Any]]) -> str:
    total, layouts = summed(plans), Counter(layout_of(plan)[0] for plan in plans)
    too_large = sum(not _fits(plan, 80 * GIB) for plan in plans)
    cells = [
        str(total["runs"]),
        f"{total['hours']:.1f}",
        f"{total['gpu_hours']:.0f}",
        "; ".join(f"{count} {name}" for name, count in layouts.most_common() if name != "none"),
        f"{total['not_fitting']} / {too_large}",
    ]
    return f"| {title} | {' | '.join(cells)} |"


def _fits(plan: dict[str, Any], memory: int) -> bool:
    layouts = plan["layouts"]
    return any(first_fitting(sizes, memory) for sizes in (layouts["plain"], layouts["checkpointing"] or {}))


SECTIONS: dict[str, tuple[str, Callable[[Measure], str]]] = {
    **{model: ("reference/scaling.md", partial(of_model, model)) for model in MODELS},
    "table_5": ("reference/scaling.md", table_5),
    "costs": ("how-to/reproducing.md", costs),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], help="names of the marks; none: all")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a document says otherwise")
    flags = parser.parse_args()
    measure, wrong = remembering(), 0
    for name in flags.sections or SECTIONS:
        document, make = SECTIONS[name]
        body, path = make(measure), DOCS / document
        before = path.read_text()
        after = put(before, name, body)
        wrong += after != before
        done = "differs" if flags.check else "written"
        seconds = f"{time.process_time():.0f} s of CPU time so far"
        print(f"{document}: {name} {done if after != before else 'is right'}; {seconds}", file=sys.stderr, flush=True)
        if not flags.check:
            path.write_text(after)
    return int(flags.check and wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
