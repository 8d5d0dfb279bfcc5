"""What a row of the table of promises is made of: cases that each prove one thing, for the tests and the benchmark."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

WEIGHTS = "adapter/adapter_model.safetensors"
TASKS = ("obqa", "arc_e")


@dataclass
class Outcome:
    """What a case found: how many things it tried, those that failed, and a figure of its own (seconds, a loss)."""

    cases: int = 1
    failures: list[str] = field(default_factory=list)
    figure: float | None = None


@dataclass(frozen=True)
class Case:
    """One proof. `check` gets an empty folder; an AssertionError, or an outcome with failures, is a broken promise."""

    name: str
    check: Callable[[Path], Outcome | None]

    def __str__(self) -> str:
        return self.name


def check_case(case: Case, folder: Path) -> None:
    """Fail where the case does."""
    outcome = case.check(folder)
    assert outcome is None or outcome.failures == []


def toy_data(root: Path, train: int = 24, held_out: int = 6) -> Path:
    """A local source of two tasks whose questions name their answers."""
    for task in TASKS:
        (root / task).mkdir(parents=True)
        for split, count in (("train", train), ("validation", held_out), ("test", held_out)):
            lines = [json.dumps(_row(task, split, number)) for number in range(count)]
            (root / task / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return root


def _row(task: str, split: str, number: int) -> dict:
    rng = random.Random(f"{task}/{split}/{number}")
    words = rng.sample(["red", "blue", "green", "black", "white", "pink", "grey", "brown"], 4)
    question = f"Item {number} of {task} {split} is {words[0]}. What colour is it?{' Look.' * rng.randrange(4)}"
    return {"id": f"{task}-{split}-{number}", "question": question, "choices": words, "answer": 0}


def command(folder: Path, *more: str, method: str = "mosld", steps: int = 6) -> list[str]:
    """The arguments of a short run in `folder`/run on rows in `folder`/data, which are made once; `more` replaces."""
    if not (folder / "data").is_dir():
        toy_data(folder / "data")
    given = [
        f"method={method}", "model=tiny", "source=local", f"source.root={folder / 'data'}",
        f"data.tasks=[{','.join(TASKS)}]", f"training.max_steps={steps}", "training.batch_size=4",
        "training.micro_batch_size=2", "training.checkpoint_every=2", "logger=files", f"output_dir={folder / 'run'}",
    ]  # fmt: skip
    # A key that is given twice is refused.
    keys = {text.partition("=")[0] for text in more}
    return [*(text for text in given if text.partition("=")[0] not in keys), *more]


def status(run: Path) -> str | None:
    """How results.json says that the run ended."""
    try:
        return json.loads((run / "results.json").read_text())["status"]
    except FileNotFoundError:
        return None


def weights(run: Path) -> str:
    """A digest of the adapter."""
    return hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest()


def metrics(run: Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    """The loss of every step."""
    return [line["cross_entropy"] for line in metrics(run) if "cross_entropy" in line]


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    return max((int(path.name.split("-")[1]) for path in run.glob("checkpoints/step-*")), default=0)
