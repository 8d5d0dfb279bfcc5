"""From the arguments of a sweep to its jobs, each composed and checked before the first one starts.

1. `hydra.*` arguments are Hydra's own: which sweeper and launcher, and how; the others are overrides of the config;
2. what a sweep file proposes (hydra.sweeper.params) is joined with the overrides, which win;
3. every value of every override is checked alone, then every job's config as a whole, all mistakes at once.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from mosld.common.errors import UserError
from mosld.common.process import is_distributed
from mosld.common.secrets import redact
from mosld.config.compose import (
    COMPOSE_ERRORS,
    forced,
    load_config,
    override_mistakes,
    parse_override,
    repeated_keys,
)
from mosld.config.groups import is_null_group
from mosld.config.identity import run_directory
from mosld.config.options import option_file, read_option
from mosld.config.schema import Config
from mosld.config.search_path import hydra_initialized

FLAGS = ("-m", "--multirun")
# Hydra's own keys that a sweep may set.
HYDRA_KEYS = ("hydra.sweeper.", "hydra.launcher.", "hydra/launcher", "hydra/sweeper")
# The groups whose files may set Hydra's keys.
SWEEP_GROUPS = ("sweep=", "experiment=", "scale=", "debug=", "launcher=")
# Keys that change how a sweep runs and not which runs it has: they are left out of its name.
UNNAMED_KEYS = ("launcher", "logger", "check", "hydra.launcher", "hydra/launcher")


@dataclass(frozen=True)
class Job:
    """One run of a sweep: the overrides that a command of its own would take, and its checked config."""

    overrides: list[str]
    config: Config


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        name: the sweep file's name and a hash: the same sweep has the same name.
        directory: where its summary lies.
        arguments: what Hydra's sweeper takes.
        jobs: all jobs in their order; none if the sweeper chooses them as it goes (Optuna).
        launcher: Hydra's name of the launcher.
    """

    name: str
    directory: Path
    arguments: list[str]
    jobs: list[Job]
    launcher: str


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for several runs: -m, a sweep file, or an experiment file with mode MULTIRUN."""
    if any(text in FLAGS for text in arguments):
        return True
    options = dict(text.split("=", 1) for text in arguments if text.startswith(("sweep=", "experiment=")))
    if options.get("sweep", "null") != "null":
        return True
    file = option_file("experiment", options.get("experiment", "null"))
    mode = file and file.is_file() and (read_option("experiment", file).get("hydra") or {}).get("mode")
    return str(mode).upper() == "MULTIRUN"


def plan_sweep(arguments: Sequence[str]) -> Sweep:
    """Every job of the sweep, checked.

    Raises:
        UserError: with one message per mistake in any job.
    """
    texts = [text for text in arguments if text not in FLAGS]
    hydra_arguments = [text for text in texts if text.lstrip("+").startswith(("hydra.", "hydra/"))]
    overrides = [text for text in texts if text not in hydra_arguments and not is_null_group(text)]
    groups = [text for text in overrides if text.startswith(SWEEP_GROUPS)]
    errors = [*repeated_keys(overrides), *_check_hydra_arguments(hydra_arguments), *_check_output_dir(overrides)]
    if errors or any(override_mistakes(text, errors) for text in groups):
        raise UserError(*errors)
    _check_sweep_files(groups)
    hydra, loader = _hydra_config([*groups, *hydra_arguments])
    launcher = str(hydra.runtime.choices["hydra/launcher"])
    if is_distributed() and launcher != "basic":
        raise UserError(f"launcher: jobs are started by this launch of several processes, not by {launcher}; drop it.")
    merged = _merge_params(hydra, overrides)
    _check_values(merged, loader)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(merged)
    adaptive = not hydra.sweeper._target_.endswith("BasicSweeper")
    _check_sweep_kinds(parsed, adaptive)
    # An adaptive sweeper chooses the jobs itself: checked are jobs that have each value once.
    if adaptive:
        combinations = _value_probes(merged, loader)
    else:
        combinations = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    jobs = _check_jobs(combinations)
    name = _sweep_name(groups, jobs, [*merged, *hydra_arguments] if adaptive else [])
    directory = Path("outputs") / "sweeps" / name
    settings = ["hydra.sweeper.params=null", f"hydra.sweep.dir={directory}", "hydra.mode=MULTIRUN"]
    hydra_overrides = [*map(forced, merged), *hydra_arguments, *settings]
    return Sweep(name, directory, hydra_overrides, [] if adaptive else jobs, launcher)


def job_overrides(task: Sequence[str]) -> list[str]:
    """The overrides of one job as a command of its own takes them."""
    texts = [text for text in task if not text.startswith(("launcher=", "sweep="))]
    return [text if "shape" in text else text.lstrip("+") for text in texts]


def varying(overrides: list[str], jobs: Sequence[Sequence[str]]) -> list[str]:
    """Those overrides of a job that not all jobs share; all of them if there is only one job."""
    shared = set.intersection(*(set(job_overrides(job)) for job in jobs)) if len(jobs) > 1 else set()
    return [text for text in overrides if text not in shared]


def _check_hydra_arguments(arguments: list[str]) -> list[str]:
    errors = [
        f"{text}: in a sweep only {', '.join(HYDRA_KEYS)} are open."
        for text in arguments
        if not text.lstrip("+").startswith(HYDRA_KEYS)
    ]
    errors += [f"{redact(text)}: holds what looks like a secret." for text in arguments if redact(text) != text]
    return errors


def _check_output_dir(overrides: list[str]) -> list[str]:
    return [
        f"{text}: names one run, and a sweep has a directory for each; leave it out."
        for text in overrides
        if text.lstrip("+").startswith("output_dir=") and not text.endswith("=null")
    ]


def _check_sweep_files(groups: list[str]) -> None:
    """Check that a sweep file sets only Hydra's keys, so that a job is the command without `sweep=`."""
    for name in (text.split("=")[1] for text in groups if text.startswith("sweep=")):
        file = option_file("sweep", name)
        keys = sorted({*read_option("sweep", file)} - {"defaults", "hydra"}) if file else []
        if keys:
            raise UserError(f"{file}: sets {', '.join(keys)}; a sweep file has hydra alone.")


def _hydra_config(overrides: list[str]) -> tuple[DictConfig, ConfigLoader]:
    """Hydra's own config, and the loader that finds the options of a group for method=glob(*)."""
    with hydra_initialized():
        try:
            hydra = compose("config", overrides=overrides, return_hydra_config=True).hydra
        except COMPOSE_ERRORS as error:
            raise UserError(f"{' '.join(overrides)}: {' '.join(str(error).splitlines()[:2])}.") from error
        return hydra, GlobalHydra.instance().config_loader()


def _merge_params(hydra: DictConfig, overrides: list[str]) -> list[str]:
    """The sweep file's params and the command line's overrides, one per key; the command line wins."""
    params = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    merged: dict[str, str] = {}
    for text in [*params, *overrides]:
        try:
            merged[parse_override(text).key_or_group] = text
        except HydraException:
            # The check of its values reports it.
            merged[text] = text
    return list(merged.values())


def _check_values(overrides: list[str], loader: ConfigLoader) -> None:
    """Check every value of every override alone."""
    errors: list[str] = []
    for text in overrides:
        values = _single_values(text, loader)
        if not values:
            errors.append(f"{text}: names no value.")
        for single in values:
            if override_mistakes(single, errors) and "unknown key" in errors[-1]:
                # The key is as wrong with every other value.
                break
    if errors:
        raise UserError(*dict.fromkeys(errors))


def _single_values(text: str, loader: ConfigLoader) -> list[str]:
    """One override per value that this one takes; of an interval, its two ends."""
    try:
        (override,) = OverridesParser.create(config_loader=loader).parse_overrides([text])
        if not override.is_sweep_override():
            return [text]
        value = override.value()
        values = [value.start, value.end] if isinstance(value, IntervalSweep) else override.sweep_string_iterator()
        return [f"{override.get_key_element()}={single}" for single in values]
    except HydraException:
        return [text]


def _check_sweep_kinds(overrides: list[Override], adaptive: bool) -> None:
    for override in overrides:
        if isinstance(override.value(), IntervalSweep) and not adaptive:
            raise UserError(f"{override.input_line}: an interval has no list of values; use sweep=optuna.")
        if isinstance(override.value(), Glob) and adaptive:
            raise UserError(f"{override.input_line}: name the values for Optuna, as in choice(lora,mosld).")


def _value_probes(overrides: list[str], loader: ConfigLoader) -> list[list[str]]:
    """Combinations in which every value occurs once, next to the first values of the other keys."""
    values = [_single_values(text, loader) for text in overrides]
    first = [singles[0] for singles in values]
    return [[*first[:i], single, *first[i + 1 :]] for i, singles in enumerate(values) for single in singles]


def _check_jobs(combinations: list[list[str]]) -> list[Job]:
    """Each job with its config; a mistake that several jobs share is reported once, with the first of them.

    Raises:
        UserError: with one message per mistake.
    """
    jobs: list[Job] = []
    mistakes: dict[str, list[list[str]]] = {}
    for combination in combinations:
        overrides = job_overrides(combination)
        try:
            jobs.append(Job(overrides, load_config(overrides)))
        except UserError as error:
            for message in error.messages:
                mistakes.setdefault(message, []).append(overrides)
    if mistakes:
        raise UserError(*(f"{text}{_affected(broken, combinations)}" for text, broken in mistakes.items()))
    return jobs


def _affected(broken: list[list[str]], combinations: list[list[str]]) -> str:
    if len(broken) == len(combinations):
        return ""
    first = " ".join(varying(broken[0], combinations))
    return f" (in {len(broken)} of {len(combinations)} jobs, the first: {first})"


def _sweep_name(groups: list[str], jobs: list[Job], texts: list[str]) -> str:
    """The file's name and a hash of what is run: the runs' directories, or `texts` if the jobs are not known."""
    files = [text.split("=")[1] for text in groups if text.startswith(("sweep=", "experiment="))]
    texts = [text for text in texts if not text.lstrip("+").startswith(UNNAMED_KEYS)]
    content = sorted(texts or [str(run_directory(job.config)) for job in jobs])
    return f"{Path((files or ['sweep'])[0]).stem}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]}"
