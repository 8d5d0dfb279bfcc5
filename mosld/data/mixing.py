"""How many rows each task gives to an epoch, and their order as a pure function of (seed, epoch, index)."""

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass

from mosld.config.schema import DataConfig


def quotas(counts: Mapping[str, int], data: DataConfig) -> dict[str, int]:
    """Rows that each task gives to an epoch.

    concatenate  all its rows (the paper)
    weights      its share of `data.weights` of the total number of rows; rows of small tasks are repeated
    temperature  as weights, with (its rows) ^ (1 / data.temperature): 1 is concatenate, higher is more even
    cap          all its rows, at most data.cap
    """
    if data.mixing == "concatenate":
        return dict(counts)
    if data.mixing == "cap":
        return {task: min(count, data.cap or count) for task, count in counts.items()}
    if data.mixing == "weights":
        weights = {task: float(data.weights[task]) for task in counts}
    else:
        weights = {task: count ** (1 / data.temperature) for task, count in counts.items()}
    return apportion(sum(counts.values()), weights)


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Split `total` in proportion to the weights, by largest remainder; at least 1 each."""
    scale = total / sum(weights.values())
    parts = {task: max(1, int(weight * scale)) for task, weight in weights.items()}
    by_remainder = sorted(parts, key=lambda task: parts[task] - weights[task] * scale)
    for task in by_remainder[: max(0, total - sum(parts.values()))]:
        parts[task] += 1
    return parts


@dataclass(frozen=True)
class Order:
    """The order of the train rows; `rows(step)` is a pure function of (seed, epoch, index).

    Attributes:
        counts: train rows of each task; the tasks' rows lie one after another.
        quotas: rows that each task gives to an epoch, fewer or more than it has.
        batch_size: rows per step; the last step of an epoch may have fewer.
        seed: the run's seed.
    """

    counts: tuple[int, ...]
    quotas: tuple[int, ...]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch."""
        return -(-sum(self.quotas) // self.batch_size)

    def rows(self, step: int) -> list[int]:
        """Indices of the rows of optimizer step `step` (from 0)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = _epoch(self.counts, self.quotas, self.seed, epoch)
        start = index * self.batch_size
        return list(order[start : start + self.batch_size])

    def distinct_rows(self, steps: int) -> int:
        """How many different rows the first `steps` steps take."""
        if self.quotas == self.counts:
            return min(sum(self.counts), steps * self.batch_size)
        return len({row for step in range(steps) for row in self.rows(step)})


@functools.lru_cache(maxsize=2)
def _epoch(counts: tuple[int, ...], quotas: tuple[int, ...], seed: int, epoch: int) -> tuple[int, ...]:
    """The rows of an epoch.

    A task whose quota is not its count continues where it stopped in the epoch before, through one permutation after
    another: all its rows come equally often.
    """
    rows: list[int] = []
    start = 0
    for task, (count, quota) in enumerate(zip(counts, quotas, strict=True)):
        if quota == count:
            rows += range(start, start + count)
        else:
            for position in range(epoch * quota, (epoch + 1) * quota):
                permutation, index = divmod(position, count)
                rows.append(start + _permutation(count, f"{seed}/{task}/{permutation}")[index])
        start += count
    random.Random(f"{seed}/{epoch}").shuffle(rows)
    return tuple(rows)


@functools.lru_cache(maxsize=64)
def _permutation(count: int, seed: str) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return tuple(order)
