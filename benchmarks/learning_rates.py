"""The learning rate that validation chooses for each method, and the test scores at it and at the others.

    python benchmarks/learning_rates.py RUNS... [--json FILE]

RUNS are directories that hold finished runs at any depth. Runs of one method that differ in more than learning rate and
seed, such as in the adapted layers, are methods of their own, named as `mosld.report` names its rows. The rate with the
smallest validation loss is chosen, over the seeds that all rates of the method have: a few hundred items tell losses
apart, but hardly accuracies. Test scores have no part in the choice.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from typing import Any

from side_by_side import report

from mosld.common.errors import UserError
from mosld.common.files import JsonObject
from mosld.reporting.collect import collect
from mosld.reporting.run import Run, group_by, row_differences, row_order

RATE = "training.learning_rate"


def at_any_rate(run: Run) -> Run:
    """The run without its learning rate: of equal `row_key` for all rates and seeds of a method."""
    config = {key: value for key, value in run.config.items() if key != RATE}
    return Run(run.path, {**run.results, "config": config})


def by_rate_and_seed(runs: list[Run]) -> dict[float, dict[int, JsonObject]]:
    """The results of one method's runs, rates in their order.

    Raises:
        SystemExit: two runs have the same rate and seed.
    """
    rates: dict[float, dict[int, JsonObject]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: float(str(run.config[RATE]))):
        seeds = rates[float(str(run.config[RATE]))]
        if run.seed in seeds:
            sys.exit(f"{run.path}: another run has this method, learning rate and seed; name fewer directories")
        seeds[run.seed] = dict(run.results)
    return rates


def mean(seeds: dict[int, JsonObject], key: str) -> float:
    """Of one figure, over the seeds."""
    return statistics.fmean(results[key] for results in seeds.values())


def with_shared_seeds(rates: dict[float, dict[int, JsonObject]]) -> dict[float, dict[int, JsonObject]]:
    """The runs of one method without those whose seed another learning rate lacks.

    Raises:
        SystemExit: there is no seed that all rates have.
    """
    shared = set.intersection(*(set(seeds) for seeds in rates.values()))
    if not shared:
        sys.exit("no seed has runs at every learning rate")
    return {rate: {seed: seeds[seed] for seed in shared} for rate, seeds in rates.items()}


def main() -> None:
    """Read the results, print a row for each method and learning rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="directories of finished runs")
    parser.add_argument("--json", help="write the figures to this file")
    flags = parser.parse_args()
    try:
        collected = collect(flags.runs)
    except UserError as error:
        sys.exit(str(error))
    runs = [run for run in collected.runs if run.trained_on is None and "validation_loss" in run.results]
    differences = row_differences(map(at_any_rate, runs))
    rows: list[dict[str, Any]] = []
    for key, alike in group_by(sorted(runs, key=row_order), lambda run: at_any_rate(run).row_key).items():
        compared = with_shared_seeds(by_rate_and_seed(alike))
        best = min(compared, key=lambda rate: mean(compared[rate], "validation_loss"))
        for rate, seeds in compared.items():
            rows.append(
                {
                    "method": " ".join([alike[0].method, *differences[key].values()]),
                    "learning rate": f"{rate:g}",
                    "seeds": len(seeds),
                    "validation loss": f"{mean(seeds, 'validation_loss'):.3f}",
                    "validation accuracy, %": f"{100 * mean(seeds, 'validation_average'):.1f}",
                    "chosen": "yes" if rate == best else "",
                    "test accuracy, %": f"{100 * mean(seeds, 'average'):.1f}",
                }
            )
    report("Learning rates", rows, flags.json)


if __name__ == "__main__":
    main()
