"""The promises of docs/explanation/reliability.md, counted: cases of each row, those that hold, a figure, seconds.

    python benchmarks/reliability.py [--quick] [--rows 1,2,5] [--json FILE]

The full form takes about half an hour on two cores, --quick (what the test suite runs) about two. Exit code 1 if any
case fails; each one that does is named.
"""

import argparse
import importlib
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from side_by_side import report

ROOT = Path(__file__).resolve().parents[1]
ROWS = {  # number: module, promise, what its figure is
    1: ("test_resume", "bit-exact resume", None),
    2: ("test_kill", "kill -9 during a save", None),
    3: ("test_damage", "damaged checkpoint", None),
    4: ("test_nan", "NaN or inf in loss or gradient", None),
    5: ("test_signals", "SIGTERM, SIGUSR1, SIGINT", None),
    6: ("test_bad_rows", "bad data rows", None),
    7: ("test_config", "bad config", "slowest {:.2f} s of the processor"),
    8: ("test_changes", "data or config changed", None),
    9: ("test_sweep", "sweeps: failing jobs, a kill, signals", None),
    10: ("test_memory", "out of memory", None),
    11: ("test_unsafe", "unsafe files", None),
    12: ("test_secrets", "secrets", None),
    13: ("test_twice", "same command twice", "largest difference {:.1g}"),
    14: ("test_cost", "cost of all this", "saves and checks: {:.2%} of the time"),
    15: ("test_ranks", "a failure on one process; full disk; lock", "slowest {:.0f} s"),
    16: ("test_sharded", "FSDP2 on 2 processes against 1", "largest difference {:.1g}"),
    17: ("test_full", "full fine-tuning in parts, against 1 process", "largest difference {:.1g}"),
    19: ("test_sealed", "damage, edits and mixed runs; honest runs", None),
    20: ("test_fuzz", "damaged and hostile files of 20 kinds", "slowest {:.1f} s of the processor"),
    18: ("test_zero", "DeepSpeed's ZeRO on 2 processes against 1", "largest difference {:.1g}"),
}


def prove(number: int, quick: bool) -> dict[str, Any]:
    """Run the cases of a row; returns its line of the table."""
    module, promise, words = ROWS[number]
    started, cases, failures, figures = time.perf_counter(), 0, list[str](), list[float]()
    for case in importlib.import_module(f"tests.reliability.{module}").cases(full=not quick):
        with tempfile.TemporaryDirectory(prefix="mosld-") as folder:
            place = Path(folder) / "case"
            place.mkdir()
            print(f"  {number:2} {case.name}", file=sys.stderr, flush=True)
            try:
                outcome = case.check(place)
            except Exception:
                cases, failures = cases + 1, [*failures, f"{case.name}: {traceback.format_exc(limit=-2)}"]
                continue
        cases += outcome.cases if outcome else 1
        failures += [f"{case.name}: {failure}" for failure in (outcome.failures if outcome else [])]
        figures += [outcome.figure] if outcome and outcome.figure is not None else []
    return {
        "row": number,
        "promise": promise,
        "cases": cases,
        "passed": cases - len(failures),
        "figure": words.format(max(figures)) if words and figures else "",
        "seconds": round(time.perf_counter() - started, 1),
        "failures": failures,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the short form, as in the test suite")
    parser.add_argument("--rows", help="only these, as in 1,2,5")
    parser.add_argument("--json", help="write the figures to this file")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    wanted = [int(number) for number in given.rows.split(",")] if given.rows else list(ROWS)
    lines = [prove(number, given.quick) for number in wanted]
    for line in lines:
        for failure in line["failures"]:
            print(f"row {line['row']}: {failure}", file=sys.stderr)
    shown = [{key: value for key, value in line.items() if key != "failures"} for line in lines]
    failures = [failure for line in lines for failure in line["failures"]]
    report(f"Promises, {'short' if given.quick else 'full'} form", shown, given.json, failed=len(failures))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
