"""What separates mixtures: scores, similarity of experts and their use by task, over the seeds of each setting.

    python benchmarks/separation.py RUN... [--json FILE]

Runs of one method with one dropout are a row, with mean and standard deviation over their seeds. The numbers are those
of `mosld.inspect` (docs/how-to/inspecting.md). Modules in which a token takes every expert by its top k have no choice
and are left out. Experts of random matrices have a cosine of zero.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from side_by_side import report

from mosld.analysis.adapter_files import AdapterRun
from mosld.analysis.analyze import RunNumbers, analyze
from mosld.common.files import JsonObject, read_json
from mosld.config.schema import Config
from mosld.runs.saved import saved_run

Measured = tuple[Config, JsonObject, RunNumbers]


def similarity(measure: str) -> Callable[[Measured], float]:
    """The mean similarity of experts over the modules that have a choice."""

    def mean(run: Measured) -> float:
        config, _, numbers = run
        modules = numbers["modules"].values()
        chosen = [one for one in modules if len(one["norm"]) > (config.method.top_k or 1)]
        return statistics.fmean(one["similarity"][measure] or 0.0 for one in chosen)

    return mean


def specialisation(run: Measured) -> float:
    """The mean over routers with a choice: 0 where tasks take the same experts, 1 where a task names its expert."""
    config, _, numbers = run
    shares = next(iter(numbers["use"].values()))
    chosen = [key for key, share in shares.items() if len(share) > (config.method.top_k or 1)]
    scores = [numbers["specialisation"][key]["score"] for key in chosen]
    return statistics.fmean(score for score in scores if score is not None)


def task_divergence(run: Measured) -> float:
    """The mean Jensen-Shannon divergence of two tasks' use of experts, in bits."""
    divergence = run[2]["divergence"]
    assert divergence is not None
    bits = divergence["bits"]
    return statistics.fmean(bits[i][j] for i in range(len(bits)) for j in range(i))


COLUMNS: dict[str, tuple[Callable[[Measured], float], str]] = {
    "accuracy, %": (lambda run: 100 * run[1]["average"], ".1f"),
    "validation loss": (lambda run: run[1]["validation_loss"], ".3f"),
    "cosine of experts": (similarity("cosine"), ".2f"),
    "cka_out of experts": (similarity("cka_out"), ".2f"),
    "specialisation": (specialisation, ".4f"),
    "divergence of tasks, bits": (task_divergence, ".4f"),
}


def cell(values: Iterable[float], digits: str) -> str:
    """Mean and standard deviation over seeds."""
    listed = list(values)
    spread = f" ± {statistics.stdev(listed):{digits}}" if len(listed) > 1 else ""
    return f"{statistics.fmean(listed):{digits}}{spread}"


def main() -> None:
    """Read the runs, print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="finished runs of mixtures on several tasks")
    parser.add_argument("--json", help="write the figures to this file")
    flags = parser.parse_args()
    settings: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for directory in flags.runs:
        run = saved_run(directory)
        config = run.config()
        method = config.method
        dropout = f"{method.dropout:g} on {method.dropout_on}" if method.dropout_on != "none" else "none"
        [numbers] = analyze({method.name: AdapterRun(run, config)})["runs"]
        settings[method.name, dropout].append((config, read_json(run.path / "results.json") or {}, numbers))
    rows: list[dict[str, Any]] = [
        {"method": method, "dropout": dropout, "seeds": len(runs)}
        | {name: cell(map(value, runs), digits) for name, (value, digits) in COLUMNS.items()}
        for (method, dropout), runs in sorted(settings.items(), key=lambda setting: setting[0])
    ]
    report("Means over modules with a choice of experts, ± standard deviation over seeds", rows, flags.json)


if __name__ == "__main__":
    main()
