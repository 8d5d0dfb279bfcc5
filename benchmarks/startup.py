"""How long commands take to start: --help, a refused config, the first training step, a report of many runs.

    python benchmarks/startup.py [--rounds 3] [--runs 1000] [--json FILE]

Each runs in a new process, in turn. The bare import is that of torch, transformers and peft, which nothing that
trains can do without; the first step is done when its line stands in metrics.jsonl, and is that of the default run.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from side_by_side import arguments, in_turn, report

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def run(*command: str, code: int = 0) -> None:
    """A Python process to its end, which must be of that exit code."""
    done = subprocess.run([sys.executable, *command], env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr[-2000:]}")


def first_step(model: str, options: list[str]) -> None:
    """Train until the line of step 1 is written."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mosld.train", f"model={model}", "evaluation.base=false", "logger=files"]
        process = subprocess.Popen(
            [*command, f"output_dir={folder}/run", *options], env=ENVIRONMENT, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        lines = Path(folder) / "run" / "metrics.jsonl"
        while not (lines.is_file() and lines.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(f"ended before its first step: {process.stderr.read()[-2000:]}")  # type: ignore[union-attr]
            time.sleep(0.005)
        process.kill()
        process.wait()


def many_runs(folder: Path, count: int) -> None:
    """As many finished runs as asked for: copies of a real one that differ in method, seed and scores."""
    options = ["model=tiny", "debug=fast", "data.limit=40", "evaluation.limit=8"]
    run("-m", "mosld.train", *options, f"output_dir={folder}/first", "logger=files")
    first = json.loads((folder / "first" / "results.json").read_text())
    for number in range(1, count):
        target = folder / str(number)
        shutil.copytree(folder / "first", target, ignore=shutil.ignore_patterns("checkpoints", "adapter"))
        method = ("lora", "mola", "mosl", "mosld")[number % 4]
        (target / "results.json").write_text(json.dumps({**first, "method": method, "seed": number // 4}))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--options", nargs="*", default=[], help="more overrides of the training command")
    parser.add_argument("--runs", type=int, default=1000)
    flags = parser.parse_args()
    work: dict[str, Callable[[int], Any]] = {
        "import torch, transformers, peft": lambda _: run("-c", "import torch, transformers, peft"),
        "--help": lambda _: run("-m", "mosld.train", "--help"),
        "a refused config": lambda _: run("-m", "mosld.train", "method.rnk=4", code=2),
        "first training step": lambda _: first_step(flags.model, flags.options),
    }
    with tempfile.TemporaryDirectory() as folder:
        if importlib.util.find_spec("mosld.report"):
            many_runs(Path(folder), flags.runs)
            work[f"report of {flags.runs} runs"] = lambda _: run("-m", "mosld.report", folder)
        seconds = in_turn(work, flags.rounds)
    bare = seconds["import torch, transformers, peft"]
    rows = []
    for name, taken in seconds.items():
        over = sorted(mine - theirs for mine, theirs in zip(taken, bare, strict=True))
        middle = len(taken) // 2
        rows.append({"what": name, "seconds": sorted(taken)[middle], "over the bare import": over[middle]})
    report(f"Start-up, {flags.model}", rows, flags.json)


if __name__ == "__main__":
    main()
