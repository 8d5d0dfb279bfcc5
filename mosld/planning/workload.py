"""How many tokens a run trains on, for the plan: from the rows where they are here, else from what is published."""

from dataclasses import dataclass

from mosld.config.schema import LETTER_PROMPTS, Config
from mosld.data.dataset import load_dataset
from mosld.data.mixing import Order, quotas
from mosld.data.tasks import TASKS
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
    """

    rows: int
    steps: int
    tokens: int
    row_tokens: float
    length: int
    answer: int
    source: str


def workload(config: Config, length: int | None, answer: int | None) -> Workload:
    """The rows, steps and tokens of a run.

    Raises:
        UserError: rows of a local source that cannot be read.
    """
    counts, tokens = _published(config) if config.source.name == "hub" else _here(config)
    taken = quotas(counts, config.data)
    rows = sum(taken.values())
    mean = sum(taken[task] * tokens[task] for task in taken) / rows
    order = Order(tuple(counts.values()), tuple(taken.values()), config.training.batch_size, config.seed)
    steps = total_steps(order.steps_per_epoch, config.training)
    seen = min(steps * config.training.batch_size, rows * config.training.epochs)
    stages = 2 if config.method.router == "domain" and not config.method.add_task else 1  # each expert, then all
    longest = length or max(TASKS[task].cutoff for task in counts)
    return Workload(
        rows=rows,
        steps=steps,
        tokens=round(stages * seen * mean),
        row_tokens=round(mean, 1),
        length=longest,
        answer=answer or _longest_answer(config, longest),
        source="published counts" if config.source.name == "hub" else f"{config.source.name} rows",
    )


def _published(config: Config) -> tuple[dict[str, int], dict[str, float]]:
    limit = config.data.limit
    counts = {task: min(TASKS[task].train_rows, limit or TASKS[task].train_rows) for task in config.data.tasks}
    return counts, {task: TASKS[task].row_tokens for task in counts}


def _here(config: Config) -> tuple[dict[str, int], dict[str, float]]:
    characters = 1 if config.model.kind == "random" else CHARACTERS  # its tokens are bytes
    counts, tokens = {}, {}
    for task, data in load_dataset(config.data, config.source).tasks.items():
        sizes = [min(sum(map(len, row.texts)) / characters, data.task.cutoff) for row in data.train]
        counts[task], tokens[task] = len(sizes), sum(sizes) / len(sizes)
    return counts, tokens


def _longest_answer(config: Config, length: int) -> int:
    if any(TASKS[task].generated for task in config.data.tasks):
        return length  # at most all of the row
    return LETTER_ANSWER if config.prompt in LETTER_PROMPTS else TEXT_ANSWER
