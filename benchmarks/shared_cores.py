"""Training runs that share the cores: tokens a second of one alone and of several at once, by how long threads spin.

    python benchmarks/shared_cores.py [--runs 2] [--ways mosld,300000,1000,0] [--json FILE]

Each run is the command `mosld.train` in a process of its own. `mosld` is what the command does by itself; a number is
GOMP_SPINCOUNT, which the user may set (300000 is GNU OpenMP's own default). Of several runs the rate is the sum over
the time in which all of them train. The ratio is to one run with the first number among the ways.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from side_by_side import arguments, report

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.02


def environment(way: str) -> dict[str, str]:
    """The environment of a run; what this process has set for OpenMP does not reach it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    spin = {} if way == "mosld" else {"GOMP_SPINCOUNT": way}
    return {**own, **spin, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def trained_tokens(run: Path) -> list[int]:
    """Tokens trained on after each step so far."""
    try:
        text = (run / "metrics.jsonl").read_text()
    except OSError:
        return []
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line["tokens"] for line in lines if "tokens_per_second" in line]


def tokens_per_second(way: str, count: int, model: str, options: list[str], steps: int, limit: float) -> float:
    """The sum of the rates of `count` runs, from their second step until one has trained all steps.

    Args:
        way: as in `environment`.
        count: runs at once.
        model: of conf/model.
        options: more overrides.
        steps: of each run.
        limit: seconds after which fewer steps are enough.
    """
    command = [
        sys.executable, "-m", "mosld.train", f"model={model}", "data=mixture", "logger=files",
        f"training.max_steps={steps}", "training.checkpoint_every=1000000", "evaluation.base=false",
        "evaluation.limit=1", "evaluation.validation_limit=1", *options,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / f"run{number}" for number in range(count)]
        errors = [(Path(folder) / f"errors{number}").open("w+") for number in range(count)]
        processes = [
            subprocess.Popen(
                [*command, f"output_dir={run}"], env=environment(way), stdout=subprocess.DEVNULL, stderr=log
            )
            for run, log in zip(runs, errors, strict=True)
        ]
        try:
            tokens = wait_for(runs, processes, 2, float("inf"))
            started, before = time.monotonic(), [every[-1] for every in tokens]
            tokens = wait_for(runs, processes, steps, limit)
            seconds = time.monotonic() - started
        except ChildProcessError:
            messages = [log.seek(0) or log.read()[-2000:] for log in errors]
            raise RuntimeError("\n".join(messages)) from None
        finally:
            for process, log in zip(processes, errors, strict=True):
                process.kill()
                process.wait()
                log.close()
        return sum(every[-1] - first for every, first in zip(tokens, before, strict=True)) / seconds


def wait_for(
    runs: list[Path], processes: Sequence["subprocess.Popen[bytes]"], steps: int, limit: float
) -> list[list[int]]:
    """Tokens after each step, once every run has 2 steps and one has `steps`, or `limit` seconds have passed."""
    end = time.monotonic() + limit
    while True:
        ended = [process.poll() is not None for process in processes]
        tokens = [trained_tokens(run) for run in runs]
        counts = [len(every) for every in tokens]
        if min(counts) >= 2 and (max(counts) >= steps or time.monotonic() > end):
            return tokens
        if any(ended):
            raise ChildProcessError
        time.sleep(POLL_SECONDS)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--ways", default="mosld,300000,1000,0")
    parser.add_argument("--runs", type=int, default=2, help="at once")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--limit", type=float, default=60, help="seconds a measurement takes at most, once all train")
    parser.add_argument("--options", nargs="*", default=["data.limit=400"], help="more overrides")
    given = parser.parse_args()
    ways = given.ways.split(",")
    rates: dict[tuple[str, int], list[float]] = {(way, count): [] for way in ways for count in (1, given.runs)}
    for _ in range(given.rounds):
        for (way, count), measured in rates.items():
            rate = tokens_per_second(way, count, given.model, given.options, given.steps, given.limit)
            measured.append(rate)
    reference = rates[next((way for way in ways if way != "mosld"), "mosld"), 1]

    def ratio(measured: list[float]) -> float:
        return statistics.median(one / other for one, other in zip(measured, reference, strict=True))

    rows = [
        {
            "spinning": "mosld" if way == "mosld" else f"GOMP_SPINCOUNT={way}",
            "one, tokens/s": statistics.median(rates[way, 1]),
            "ratio": ratio(rates[way, 1]),
            "together, tokens/s": statistics.median(rates[way, given.runs]),
            "ratio together": ratio(rates[way, given.runs]),
        }
        for way in ways
    ]
    report(f"{given.runs} training runs at once on {os.cpu_count()} cores, {given.model}", rows, given.json)


if __name__ == "__main__":
    main()
