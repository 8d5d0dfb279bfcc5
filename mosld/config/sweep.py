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
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from mosld.common.errors import UserError
from mosld.common.process import several
from mosld.common.secrets import hidden
from mosld.config.compose import COMPOSING, forced, load_config, override_mistakes, parse_override
from mosld.config.groups import config_directory, is_null_group
from mosld.config.identity import run_directory
from mosld.config.schema import Config

# PART: What the values of a sweep stand for: single values, all combinations, and the overrides of one job.


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


# PART: From the arguments of a sweep to its jobs, each composed and checked before the first one starts. 1.
# `hydra.*` arguments are Hydra's own: which sweeper and launcher, and how; the others are overrides of the config;
# 2. what a sweep file proposes (hydra.sweeper.params) is joined with the overrides, which win; 3. every value of
# every override is checked alone, then every job's config as a whole, all mistakes at once.


FLAGS = ("-m", "--multirun")
OPEN = ("hydra.sweeper.", "hydra.launcher.", "hydra/launcher", "hydra/sweeper")
SHAPING = ("sweep=", "experiment=", "scale=", "debug=", "launcher=")  # groups whose files speak of the sweep itself
IRRELEVANT = ("launcher", "logger", "check", "hydra.launcher", "hydra/launcher")  # to what a sweep is


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
        jobs: all jobs in their order; none where the sweeper chooses as it goes.
        launcher: Hydra's name of the launcher.
    """

    name: str
    directory: Path
    arguments: list[str]
    jobs: list[Job]
    launcher: str


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for several runs: -m, a sweep file, or an experiment file that says MULTIRUN."""
    chosen = dict(text.split("=", 1) for text in arguments if text.startswith(("sweep=", "experiment=")))
    file = config_directory() / "experiment" / f"{chosen.get('experiment')}.yaml"
    mode = OmegaConf.select(OmegaConf.load(file), "hydra.mode") if file.is_file() else None
    asked = any(text in FLAGS for text in arguments) or chosen.get("sweep", "null") != "null"
    return asked or str(mode).upper() == "MULTIRUN"


def plan_sweep(arguments: Sequence[str]) -> Sweep:
    """Every job of the sweep, checked.

    Raises:
        UserError: with one message for each mistake in any job.
    """
    texts = [text for text in arguments if text not in FLAGS]
    own = [text for text in texts if text.lstrip("+").startswith(("hydra.", "hydra/"))]
    given = [text for text in texts if text not in own and not is_null_group(text)]
    errors = _refused(own, given)
    groups = [text for text in given if text.startswith(SHAPING)]
    if errors or any(override_mistakes(text, errors) for text in groups):
        raise UserError(*errors)
    _only_hydra(groups)
    hydra, loader = _hydra_config([*groups, *own])
    launcher = str(hydra.runtime.choices["hydra/launcher"])
    if several() and launcher != "basic":
        raise UserError(f"launcher: jobs are started by this launch of several processes, not by {launcher}; drop it.")
    merged = _merged(hydra, given)
    for text in merged:
        for single in singles(text, loader, errors):
            if override_mistakes(single, errors) and "unknown key" in errors[-1]:
                break  # as wrong with every other value
    if errors:
        raise UserError(*dict.fromkeys(errors))
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(merged)
    adaptive = not hydra.sweeper._target_.endswith("BasicSweeper")
    refuse_kinds(parsed, adaptive)
    jobs = _checked(probes(merged, loader) if adaptive else product(parsed))
    name = _name(groups, jobs, [*merged, *own] if adaptive else [])
    directory = Path("outputs") / "sweeps" / name
    ours = ["hydra.sweeper.params=null", f"hydra.sweep.dir={directory}", "hydra.mode=MULTIRUN"]
    return Sweep(name, directory, [*map(forced, merged), *own, *ours], [] if adaptive else jobs, launcher)


def _refused(own: list[str], given: list[str]) -> list[str]:
    """What no sweep can take."""
    errors = [
        f"{text}: in a sweep only {', '.join(OPEN)} are open." for text in own if not text.lstrip("+").startswith(OPEN)
    ]
    errors += [f"{hidden(text)}: holds what looks like a secret." for text in own if hidden(text) != text]
    for text in given:
        if text.lstrip("+").startswith("output_dir=") and not text.endswith("=null"):
            errors.append(f"{text}: names one run, and a sweep has a directory for each; leave it out.")
    return errors


def _only_hydra(groups: list[str]) -> None:
    """A sweep file says which values there are and nothing of a run: a job is then a command without `sweep=`."""
    for name in (text.split("=")[1] for text in groups if text.startswith("sweep=")):
        file = config_directory() / "sweep" / f"{name}.yaml"
        more = sorted({str(key) for key in OmegaConf.load(file)} - {"defaults", "hydra"}) if file.is_file() else []
        if more:
            raise UserError(f"{file}: sets {', '.join(more)}; a sweep file has hydra alone.")


def _hydra_config(overrides: list[str]) -> tuple[DictConfig, Any]:
    """Hydra's own config, and what finds the options of a group for method=glob(*)."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        try:
            hydra = compose("config", overrides=overrides, return_hydra_config=True).hydra
        except COMPOSING as error:
            raise UserError(f"{' '.join(overrides)}: {' '.join(str(error).splitlines()[:2])}.") from error
        return hydra, GlobalHydra.instance().config_loader()


def _merged(hydra: DictConfig, given: list[str]) -> list[str]:
    """What the sweep file proposes and what the command line gives, a text a key; the command line wins."""
    found: dict[str, str] = {}
    for text in [*(f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()), *given]:
        try:
            found[parse_override(text).key_or_group] = text
        except HydraException:
            found[text] = text  # is refused with what is wrong with it
    return list(found.values())


def _checked(jobs: list[list[str]]) -> list[Job]:
    """Each job with its config; a mistake that several share is told once, with the first of them."""
    found: list[Job] = []
    mistakes: dict[str, list[list[str]]] = {}
    for texts in jobs:
        overrides = job_overrides(texts)
        try:
            found.append(Job(overrides, load_config(overrides)))
        except UserError as error:
            for message in error.messages:
                mistakes.setdefault(message, []).append(overrides)
    if mistakes:
        raise UserError(*(f"{message}{_where(at, jobs)}" for message, at in mistakes.items()))
    return found


def _where(broken: list[list[str]], jobs: list[list[str]]) -> str:
    if len(broken) == len(jobs):
        return ""
    return f" (in {len(broken)} of {len(jobs)} jobs, the first: {' '.join(varying(broken[0], jobs))})"


def _name(groups: list[str], jobs: list[Job], texts: list[str]) -> str:
    """The file's name and a hash of what is run: the runs' directories, or the texts where they are not known."""
    chosen = [text.split("=")[1] for text in groups if text.startswith(("sweep=", "experiment="))]
    texts = [text for text in texts if not text.lstrip("+").startswith(IRRELEVANT)]
    what = sorted(texts or [str(run_directory(job.config)) for job in jobs])
    return f"{(chosen or ['sweep'])[0]}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]}"
