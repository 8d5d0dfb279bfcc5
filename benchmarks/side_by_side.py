"""How the benchmarks measure: work in turn in one process, medians and ratios, a table and a JSON file.

Compared work runs in turn, round by round, so that other load on the machine slows all of it; a ratio is the median of
the ratios of the rounds. No absolute time is judged.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import print as show
from rich.table import Table

# Operations per second of dense products in bfloat16, from NVIDIA's data sheets.
DATA_SHEETS = {"H100 80GB HBM3": 989e12, "H200": 989e12, "A100": 312e12}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def arguments(description: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="measured rounds, after one that warms up (1: none)")
    parser.add_argument("--json", help="write the figures to this file")
    return parser


def clock() -> float:
    """Seconds, after all work on CUDA is done."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def in_turn(work: dict[str, Callable[[int], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round, called with its number. Round 0 warms up, unless there is one."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(0 if rounds > 1 else 1, rounds + 1):
        for name, do in work.items():
            started = clock()
            do(number)
            if number:
                seconds[name].append(clock() - started)
    return seconds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest ratio of the times of the same rounds."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def matrix_peak(dtype: torch.dtype, size: int | None = None, repeats: int = 3) -> float:
    """Floating-point operations per second of a product of two large square matrices on this machine."""
    size = size or (8192 if DEVICE.type == "cuda" else 2048)
    left, right = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
    work = in_turn({"product": lambda _: left @ right}, repeats)
    return 2 * size**3 / min(work["product"])


def peak(dtype: torch.dtype) -> float:
    """Operations per second that the card's data sheet promises; without one, those of a large product here."""
    name = machine()["device"]
    known = [value for card, value in DATA_SHEETS.items() if card in name and dtype is torch.bfloat16]
    return known[0] if known else matrix_peak(dtype)


def machine() -> dict[str, Any]:
    """Device, threads and version of torch."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else cpu
    return {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}


def report(title: str, rows: Sequence[dict[str, Any]], path: str | None, **more: Any) -> None:
    """Print rows with equal keys as a table, and write them with the machine to a JSON file if one is asked for."""
    here = machine()
    table = Table(title=f"{title}\n{here['device']}, {here['threads']} threads, torch {here['torch']}")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:,.4g}" for value in row.values()))
    show(table)
    for name, value in more.items():
        show(f"{name.replace('_', ' ')}: {value}")
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(
            json.dumps({"title": title, "machine": here, "rows": list(rows), **more}, indent=2) + "\n"
        )
