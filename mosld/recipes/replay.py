"""Steps of a run that are trained again between two of its checkpoints, and compared bit by bit."""

import random
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

from mosld.common.errors import UserError
from mosld.config.schema import Config
from mosld.data.dataset import load_dataset
from mosld.recipes.context import RunContext, add_adapter, make_loop, prepare, readable_tokens
from mosld.recipes.load import load_base_model
from mosld.recipes.moa import add_task_experts
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.training.checkpoint import load_state
from mosld.training.loop import Loop
from mosld.training.optim import learning_rate
from mosld.training.signals import StopSignals
from mosld.training.tensor_files import SavedTensors


def replay_steps(config: Config | None, run: RunDirectory, count: int) -> tuple[list[str], str]:
    """Train at least `count` steps again, between checkpoints chosen at random.

    Returns:
        What differs, one sentence each, and what was compared.

    Raises:
        UserError: config, rows or base cannot be read, or there are no two checkpoints.
    """
    if config is None:
        raise UserError("config.yaml cannot be read")
    steps = sorted(run.checkpoints.glob("step-*"))
    pairs = [pair for pair in pairwise(steps) if not any(map(run.seal.folder_faults, pair))]
    if not pairs:
        raise UserError("there are no two whole checkpoints of steps (training.keep_last)")
    console = Console()
    dataset = load_dataset(config.data, config.source)
    model, tokenizer = load_base_model(config.model, console, run.seal.base())
    context = RunContext(config, dataset, tokenizer, console, readable_tokens(config.method, model.config))
    stop = StopSignals()
    adapt = partial(add_task_experts, run=run, stop=stop) if config.method.router == "domain" else add_adapter
    stepper, examples = prepare(context, model, adapt)
    loop = make_loop(context, stepper, examples, run, stop)
    faults: list[str] = []
    replayed = 0
    random.shuffle(pairs)
    for start, end in pairs:
        if replayed < count:
            taken, differing = _replay(loop, start, end)
            replayed += taken
            if differing:
                others = f" and {len(differing) - 1} more differ" if len(differing) > 1 else " differs"
                faults.append(f"trained again from {start.name}, {differing[0]}{others} from {end.name}")
    return faults, f"{replayed} steps, every bit of the weights"


def _replay(loop: Loop, start: Path, end: Path) -> tuple[int, list[str]]:
    """Train from one checkpoint to the next; returns the steps taken, and the weights that differ."""
    progress = load_state(loop.stepper.engine, start)
    first, last = (int(folder.name.removeprefix("step-")) for folder in (start, end))
    for step in range(first, last):
        examples = [loop.examples[index] for index in loop.order.rows(step)]
        rate = learning_rate(step, loop.total_steps, loop.config)
        loop.stepper.step(examples, progress.micro_batch_size, rate, step, lambda: False)
    saved = SavedTensors(end, "weights")
    weights = loop.stepper.engine.weights()
    return last - first, [name for name, one in weights if one is not None and not torch.equal(one, saved.read(name))]
