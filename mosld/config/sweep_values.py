"""What the values of a sweep stand for: single values, all combinations, and the overrides of one job."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException

from mosld.config.errors import UserError


def job_overrides(task: Sequence[str]) -> list[str]:
    """The overrides of one job as a command of its own takes them."""
    own = [text for text in task if not text.startswith(("launcher=", "sweep="))]
    return [text if "shape" in text else text.lstrip("+") for text in own]


def varying(overrides: list[str], jobs: Sequence[Sequence[str]]) -> list[str]:
    """Those overrides of a job that not all jobs share; all of them where there is one job."""
    shared = set.intersection(*(set(job_overrides(job)) for job in jobs)) if len(jobs) > 1 else set()
    return [text for text in overrides if text not in shared]


def singles(text: str, loader: Any, errors: list[str]) -> list[str]:
    """One override for each value that this one takes: the two ends of an interval."""
    try:
        (override,) = OverridesParser.create(config_loader=loader).parse_overrides([text])
        if not override.is_sweep_override():
            return [text]
        value = override.value()
        if isinstance(value, IntervalSweep):
            return [f"{override.get_key_element()}={end}" for end in (value.start, value.end)]
        found = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    except HydraException:
        return [text]
    if not found:
        errors.append(f"{text}: names no value.")
    return found


def refuse_kinds(parsed: list[Override], adaptive: bool) -> None:
    """Refuse the kinds of values that the sweeper cannot take.

    Raises:
        UserError: the first of them.
    """
    for override in parsed:
        if isinstance(override.value(), IntervalSweep) and not adaptive:
            raise UserError(f"{override.input_line}: an interval has no list of values; use sweep=optuna.")
        if isinstance(override.value(), Glob) and adaptive:
            raise UserError(f"{override.input_line}: name the values for Optuna, as in choice(lora,mosld).")


def product(parsed: list[Override]) -> list[list[str]]:
    """All combinations, in the order in which Hydra's sweeper takes them."""
    return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]


def probes(merged: list[str], loader: Any) -> list[list[str]]:
    """Where the sweeper chooses: every value once, beside the first ones of the other keys."""
    values = [singles(text, loader, []) for text in merged]
    first = [found[0] for found in values]
    return [[*first[:i], value, *first[i + 1 :]] for i, found in enumerate(values) for value in found]
