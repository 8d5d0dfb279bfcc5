"""How many tokens a run trains on, for the plan: from the rows where they are here, else from what is published."""

from collections.abc import Sequence
from dataclasses import dataclass

from mosld.common.errors import UserError
from mosld.config.schema import LETTER_PROMPTS, Config, DataConfig, ModelConfig
from mosld.data.dataset import load_dataset
from mosld.data.mixing import Order, quotas
from mosld.data.rows import AnyRow, Reply, Solution
from mosld.data.tasks import TASKS, Task
from mosld.training.optim import total_steps

CHARACTERS = 4.2  # a token, English text; SmolLM2's tokenizer on the published rows
LETTER_ANSWER, TEXT_ANSWER = 2, 40  # the longest answer to a question of choice is 38 tokens with its end


@dataclass(frozen=True)
class Workload:
    """What is trained on.

    Attributes:
        rows: train rows of an epoch.
        steps: optimiser steps.
        tokens: tokens seen in all steps, pads not counted.
        row_tokens: mean tokens of a row.
        length: tokens of the longest row.
        answer: tokens of the longest answer.
        source: where the figures come from.
        steps_per_epoch: optimiser steps of a pass over the rows.
    """

    rows: int
    steps: int
    tokens: int
    row_tokens: float
    length: int
    answer: int
    source: str
    steps_per_epoch: int


def workload(config: Config, length: int | None, answer: int | None) -> Workload:
    """The rows, steps and tokens of a run.

    Raises:
        UserError: rows of a local source that cannot be read.
    """
    tasks, counts, tokens = _published(config) if config.source.name == "hub" else _here(config)
    taken = quotas(counts, config.data)
    rows = sum(taken.values())
    mean = sum(taken[task] * tokens[task] for task in taken) / rows
    order = Order(tuple(counts.values()), tuple(taken.values()), config.training.batch_size, config.seed)
    steps = total_steps(order.steps_per_epoch, config.training)
    seen = min(steps * config.training.batch_size, rows * config.training.epochs)
    stages = 2 if config.method.router == "domain" and not config.method.add_task else 1  # each expert, then all
    longest = length or max(_limit(config.data, config.model, task) for task in tasks)
    return Workload(
        rows=rows,
        steps=steps,
        tokens=round(stages * seen * mean),
        row_tokens=round(mean, 1),
        length=longest,
        answer=answer or _longest_answer(config.prompt, tasks, longest),
        source="published counts" if config.source.name == "hub" else f"{config.source.name} rows",
        steps_per_epoch=order.steps_per_epoch,
    )


# The tasks, the train rows of each, and their mean tokens.
Rows = tuple[list[Task], dict[str, int], dict[str, float]]


def _published(config: Config) -> Rows:
    limit = config.data.limit
    counts = {task: min(TASKS[task].train_rows, limit or TASKS[task].train_rows) for task in config.data.tasks}
    tasks = [TASKS[task] for task in counts]
    return tasks, counts, {task.name: min(task.row_tokens, _limit(config.data, config.model, task)) for task in tasks}


def _here(config: Config) -> Rows:
    characters = 1 if config.model.kind == "random" else CHARACTERS  # its tokens are bytes
    counts, tokens = {}, {}
    tasks = load_dataset(config.data, config.source).tasks
    for task, data in tasks.items():
        limit = _limit(config.data, config.model, data.task)
        sizes = [
            min(size, limit)
            for row in data.train
            if (size := _characters(row) / characters) <= limit
            or (config.data.too_long != "drop" and _can_be_truncated(row, size - limit, characters))
        ]
        if not sizes:
            raise UserError(f"{task}: every train row is longer than {limit:,} tokens (data.too_long, data.cutoff).")
        counts[task], tokens[task] = len(sizes), sum(sizes) / len(sizes)
    return [data.task for data in tasks.values()], counts, tokens


def _limit(data: DataConfig, model: ModelConfig, task: Task) -> int:
    """The most tokens of a row: the task's cutoff, or what the model reads where its shape says so."""
    cutoff = data.cutoff or task.cutoff
    context_length = model.shape.get("max_position_embeddings")
    return min(cutoff, context_length - 1) if isinstance(context_length, int) else cutoff


def _can_be_truncated(row: AnyRow, excess: float, characters: float) -> bool:
    """Whether a row that is too long is truncated, and not left out."""
    return isinstance(row, Reply) or len(row.context) / characters >= excess


def _characters(row: AnyRow) -> int:
    """The characters of a row, with an answer that is more than a letter."""
    answer = row.answer if isinstance(row, Solution) else row.system + row.response if isinstance(row, Reply) else ""
    return sum(map(len, row.texts)) + len(answer)


def _longest_answer(prompt: str | None, tasks: Sequence[Task], length: int) -> int:
    if any(task.generated for task in tasks):
        return length  # at most all of the row
    return LETTER_ANSWER if prompt in LETTER_PROMPTS else TEXT_ANSWER
