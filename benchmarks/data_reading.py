"""Time and memory of `source.root=FILE check=true` on many rows, first and from the cache: the whole command.

python benchmarks/data_reading.py [--rows 100000 1000000] [--json FILE]

Each command is a process of its own; the memory is its largest resident set, mapped files included.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import report

ROOT = Path(__file__).resolve().parents[1]
TEXT = "the court held that a party may claim what it lost by the act of another if it gave notice in due time"
WORDS = TEXT.split()


def write_rows(path: Path, count: int) -> None:
    """Multiple-choice questions of about 20 words, each different."""
    draw = random.Random(0)
    with path.open("w") as file:
        for number in range(count):
            answer = draw.randrange(4)
            question = f"In case {number}, {' '.join(draw.choices(WORDS, k=16))}?"
            choices = [f"{' '.join(draw.choices(WORDS, k=3))} {index}" for index in range(4)]
            file.write(json.dumps({"question": question, "choices": choices, "answer": "ABCD"[answer]}) + "\n")


def measure(path: Path, cache: Path) -> dict[str, float]:
    """Seconds of one command, and its largest memory in GiB."""
    command = [sys.executable, "-m", "mosld.train", f"source.root={path}", "model=tiny", "check=true", "logger=files"]
    started = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "MOSLD_CACHE": str(cache), "PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("the command failed")
    return {"seconds": time.perf_counter() - started, "gib": usage.ru_maxrss / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--json")
    given = parser.parse_args()
    rows = []
    for count in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "law.jsonl"
            write_rows(path, count)
            first, cached = (measure(path, Path(folder) / "cache") for _ in range(2))
        rows.append(
            {
                "rows": count,
                "first, s": first["seconds"],
                "cached, s": cached["seconds"],
                "peak, GiB": max(first["gib"], cached["gib"]),
            }
        )
    report("source.root=FILE check=true with the tiny model, a whole command", rows, given.json)


if __name__ == "__main__":
    main()
