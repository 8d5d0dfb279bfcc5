"""Steppers and loops on the tiny model, without a command around them: for cases that look at single steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mosld
from mosld.config.schema import TrainingConfig
from mosld.data.mixing import Order
from mosld.data.rows import Row
from mosld.data.tokens.encoding import Example
from mosld.distributed.processes import processes
from mosld.evaluation.validation import Validation
from mosld.runs.console import Console
from mosld.training.checkpoint import Checkpoints
from mosld.training.loop import Loop
from mosld.training.optim import make_optimizer
from mosld.training.signals import StopSignals
from mosld.training.step import Stepper

PAD = 259
DOMAINS = ("obqa", "arc_e")


def small_examples(count: int = 14) -> list[Example]:
    """Rows of random tokens, of two tasks and of different lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(6, 20, (count,), generator=generator).tolist()
    return [
        Example(
            Row(DOMAINS[number % 2], f"row{number}", "", "?", ("a", "b"), 0),
            torch.randint(0, 256, (length,), generator=generator).tolist(),
            length - 3,
        )
        for number, length in enumerate(lengths)
    ]


def examples_of(*lengths: int) -> list[Example]:
    """A row of each length, of which the last three tokens are the answer."""
    row = Row("arc_e", "row", "", "?", ("a", "b"), 0)
    return [Example(row, [5 + (7 * i + length) % 200 for i in range(length)], length - 3) for length in lengths]


def small_stepper(method: str = "mosld", seed: int = 0, **options: Any) -> Stepper:
    """A fresh tiny model with a method on it; the global random numbers are left somewhere else every time."""
    if method == "moa":
        options["domains"] = list(DOMAINS)
    config = TrainingConfig(learning_rate=1e-2)
    torch.manual_seed(torch.seed() % 2**32)
    model = mosld.adapt(mosld.load_base("tiny")[0], method, seed=seed, **options)
    domains = DOMAINS if method in ("moa", "loramoe") else ()
    torch.seed()
    return stepper_of(model, make_optimizer(model, config), max_norm=1.0, domains=domains)


def stepper_of(model: Any, optimizer: torch.optim.Optimizer | None = None, **options: Any) -> Stepper:
    """A stepper of an adapted model, by default with AdamW."""
    optimizer = optimizer or make_optimizer(model, TrainingConfig())
    return Stepper(model, optimizer, **{"processes": processes(), "pad_token_id": PAD, **options})


def small_loop(checkpoints: Path, method: str, micro: int, steps: int, **changes: Any) -> Loop:
    """A loop that saves a checkpoint after every step and validates every other one."""
    config = TrainingConfig(**{
        "epochs": 3, "max_steps": steps, "batch_size": 4, "micro_batch_size": micro, "checkpoint_every": 1,
        "validate_every": 2, "keep_last": 100, "learning_rate": 1e-2, **changes,
    })  # fmt: skip
    checkpoints.mkdir(parents=True, exist_ok=True)
    return loop_of(small_stepper(method), config, checkpoints, checkpoints / "metrics.jsonl")


def loop_of(
    stepper: Stepper,
    config: TrainingConfig,
    checkpoints: Path,
    metrics: Path,
    validate: Callable[[], Validation] = lambda: Validation({"arc_e": 0.5}, {"arc_e": 1.0}),
    best_by: str = "accuracy",
) -> Loop:
    """The loop over `small_examples`."""
    rows = small_examples()
    return Loop(
        stepper, rows, Order((len(rows),), (len(rows),), config.batch_size, 0), config, validate=validate,
        best_by=best_by, checkpoints=Checkpoints(checkpoints, config.keep_last), metrics_path=metrics, log_every=1,
        console=Console(), stop=StopSignals(),
    )  # fmt: skip


def short_run(method: str, root: Path, run: Path) -> list[str]:
    """The arguments of a run of four steps on two tasks below `root`."""
    # So that an adapter changes answers; the weights of the base need less.
    rate = 0.001 if method == "full" else 0.02
    return [
        f"method={method}", "model=tiny", "source=local", f"source.root={root}", "data=mixture",
        "data.tasks=[obqa,arc_e]", "data.limit=16", "training.max_steps=4", "training.epochs=1",
        f"training.learning_rate={rate}", "evaluation.base=true", "evaluation.limit=8", "evaluation.validation_limit=2",
        "logger=files", f"output_dir={run}",
    ]  # fmt: skip


def evaluation_of(run: Path, data: str = "", prompt: str = "*") -> Path:
    """The directory below a run that holds the last evaluation on this data by mosld's own scoring."""
    folders = [path for path in run.glob(f"eval/{data}*-*-{prompt}") if not path.name.startswith("lm_eval")]
    return max(folders, key=lambda path: (path / "results.json").stat().st_mtime)


def disagreeing_moa(base=None, **options):
    """A mixture of three domains whose routers disagree from layer to layer and from prompt to prompt."""
    base = mosld.load_base("tiny")[0] if base is None else base
    model = mosld.adapt(base, "moa", domains=["a", "b", "c"], seed=0, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(std=1.0 if "router" in name else 0.3)
    return model.eval()
