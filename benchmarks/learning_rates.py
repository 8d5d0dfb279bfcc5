"""The learning rate that validation chooses for each method, and the test scores at it and at the others.

    python benchmarks/learning_rates.py RESULTS... [--json FILE]

RESULTS are results.json files, or directories that hold them at any depth, of runs that differ in method, learning rate
and seed. The rate with the smallest validation loss is chosen, over the seeds that all rates of the method have: a few
hundred items tell losses apart, but hardly accuracies. Test scores have no part in the choice.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from side_by_side import report

from mosld.common.files import JsonObject, read_json

# method -> learning rate -> seed -> results
Runs = dict[str, dict[float, dict[int, JsonObject]]]


def collect(places: list[str]) -> Runs:
    """The results of finished runs.

    Raises:
        SystemExit: two runs have the same method, rate and seed.
    """
    runs: Runs = defaultdict(lambda: defaultdict(dict))
    for place in map(Path, places):
        for path in [place] if place.is_file() else sorted(place.rglob("results.json")):
            results = read_json(path)
            if not results or results["status"] != "finished" or "validation_loss" not in results:
                continue
            seeds = runs[results["method"]][results["config"]["training.learning_rate"]]
            if results["seed"] in seeds:
                sys.exit(f"{path}: another run has this method, learning rate and seed; name fewer directories")
            seeds[results["seed"]] = results
    return runs


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
    parser.add_argument("results", nargs="+")
    parser.add_argument("--json", help="write the figures to this file")
    flags = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for method, rates in collect(flags.results).items():
        compared = with_shared_seeds(rates)
        best = min(compared, key=lambda rate: mean(compared[rate], "validation_loss"))
        for rate, seeds in sorted(compared.items()):
            rows.append(
                {
                    "method": method,
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
