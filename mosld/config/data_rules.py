"""Rules that join several keys of the data."""

from collections.abc import Iterator

from mosld.config.data import DataConfig
from mosld.config.errors import nearest, typed


def broken_mixing_rules(data: DataConfig) -> Iterator[str]:
    """What cannot work in how the tasks are mixed, and keys that say nothing with the chosen way."""
    says = {"weights": ({}, data.weights), "temperature": (1.0, data.temperature), "cap": (None, data.cap)}
    for key, (default, value) in says.items():
        if value != default and data.mixing != key:
            now = f"data.mixing={data.mixing}"
            yield f"data.{key}={typed(value)}: says nothing with {now}; set data.mixing={key}."
    if data.mixing == "cap" and data.cap is None:
        yield "data.mixing=cap: give data.cap, the most rows of a task in an epoch."
    if data.mixing == "weights":
        yield from _broken_weights(data)


def _broken_weights(data: DataConfig) -> Iterator[str]:
    given = f"data.weights={typed(data.weights)}"
    for task, weight in data.weights.items():
        if task not in data.tasks:
            yield f"{given}: {task} is no task of this run; {nearest(task, data.tasks)}"
        elif isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
            yield f"{given}: the weight of {task} must be a number above 0."
    lacking = [task for task in data.tasks if task not in data.weights]
    if lacking:
        yield f"{given}: has no weight for {', '.join(lacking)}."
