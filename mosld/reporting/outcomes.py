"""Which items each run got right, out of its predictions: what tests that pair items compare."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mosld.reporting.run import Run
from mosld.reporting.significance import Floats


class Outcomes:
    """Reads `predictions/<task>.jsonl`, each file once and only when a comparison asks for it.

    Attributes:
        faults: files that are missing, damaged or at odds with results.json, with the reason.
    """

    def __init__(self) -> None:
        """Nothing is read yet."""
        self.faults: dict[Path, str] = {}
        self._read: dict[tuple[Path, str], dict[str, bool] | None] = {}

    def of(self, run: Run, task: str) -> dict[str, bool] | None:
        """Whether each item, by its id, was answered right; None where the file cannot be used."""
        key = (run.path, task)
        if key not in self._read:
            path = run.path / "predictions" / f"{task}.jsonl"
            try:
                self._read[key] = _outcomes(path, run, task)
            except FileNotFoundError:
                self.faults[path] = "missing"
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.faults[path] = f"damaged ({error})"
        return self._read.setdefault(key, None)

    def differences(self, runs: Mapping[int, Run], others: Mapping[int, Run], task: str) -> Floats | None:
        """For each item the mean over the seeds that both sides have of (right here) - (right there) [N].

        None where no seed can be paired: predictions are lacking, or two runs were not asked the same items.
        """
        sums, count, items = None, 0, None
        for seed in sorted(runs.keys() & others.keys()):
            here, there = self.of(runs[seed], task), self.of(others[seed], task)
            if here is None or there is None or here.keys() != there.keys():
                continue
            items = items or sorted(here)
            if len(items) != len(here) or items[0] not in here:
                continue
            paired = np.array([here[item] - there[item] for item in items], dtype=float)
            sums, count = paired if sums is None else sums + paired, count + 1
        return None if sums is None else sums / count


def _outcomes(path: Path, run: Run, task: str) -> dict[str, bool]:
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    # As scored: by likelihood where letters are answered, per character where the answer is the option's text.
    by_character = run.prompt != "letter" and records and "normalised_correct" in records[0]
    key = "normalised_correct" if by_character else "correct"
    right = {str(record["id"]): bool(record[key]) for record in records}
    if abs(sum(right.values()) - run.accuracy(task) * len(records)) > 1e-6 * len(records) or not records:
        raise ValueError("its items do not add up to the accuracy in results.json")
    return right
