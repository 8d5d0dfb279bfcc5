"""From the command line to a checked `Config`: Hydra composes, and every mistake is reported in one message.

1. each override is checked alone: its grammar, its group and option, its key (nearest name);
2. Hydra composes the ones that are right;
3. the tree becomes dataclasses: types, ranges, choices;
4. rules that join several keys.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mosld.common.errors import UserError, nearest, typed
from mosld.common.secrets import secrets_in
from mosld.config.checks import check_config, own_tasks, single_task
from mosld.config.fields import build, field_types
from mosld.config.groups import OPTIONAL, config_directory, group_options, is_null_group, missing_plugin
from mosld.config.method_checks import own_number, with_domains
from mosld.config.schema import MAPS, TASKS, Config, DataConfig

# PART: What a config leaves to be found out: null defaults, absolute paths, the user's own tasks, a single
# setting's one.


def with_own_tasks(config: Config, errors: list[str]) -> Config:
    """The config with the tasks named that lie below `source.root`; what is wrong there is appended to `errors`."""
    try:
        tasks = own_tasks(config.data, config.source)
    except UserError as error:
        errors += error.messages
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, tasks=tasks))


def with_single_task(config: Config) -> Config:
    """The config of a `single_*` setting with its one task, where the list of tasks names it among others.

    So one list serves a sweep over mixture and single settings: the single jobs are then those of plain commands. A
    list without the task, or with a mistake in it, stays as it is: the rules say what is wrong with it.
    """
    data = config.data
    task, given = single_task(data), data.tasks
    if task not in given or len(set(given)) < len(given) or not set(given) <= set(TASKS):
        return config
    others = set(given) - {task}
    data = dataclasses.replace(
        data,
        tasks=[task],
        weights={name: weight for name, weight in data.weights.items() if name not in others},
        n_openorca=None if "openorca" in others else data.n_openorca,
    )
    return dataclasses.replace(config, data=data)


def resolved(config: Config) -> Config:
    """Fill in the keys whose null means "as the model's config says", and make paths absolute.

    `config.yaml` then records what was used, and one directory has one name wherever the command is typed.
    """
    model, source = config.model, config.source
    if model.path:
        path = Path(model.path).resolve()
        model = dataclasses.replace(model, name=path.name, path=str(path))
    if source.root:
        source = dataclasses.replace(source, root=str(Path(source.root).resolve()))
    base = model.score_base if config.evaluation.base is None else config.evaluation.base
    method = config.method
    if method.router == "domain":
        method = with_domains(method, config.data.tasks)
    return dataclasses.replace(
        config,
        model=model,
        method=method,
        data=_with_shares(config.data),
        source=source,
        evaluation=dataclasses.replace(config.evaluation, base=base),
        prompt=config.prompt or model.prompt,
    )


def _with_shares(data: DataConfig) -> DataConfig:
    """Of one task alone every share is the whole: the same run, so the same name, as without them."""
    if len(data.tasks) != 1 or data.mixing not in ("weights", "temperature"):
        return data
    return dataclasses.replace(data, mixing="concatenate", weights={}, temperature=1.0)


# PART: From the command line to a checked `Config`: Hydra composes, and every mistake is reported in one message.
# 1. each override is checked alone: its grammar, its group and option, its key (nearest name); 2. Hydra composes
# the ones that are right; 3. the tree becomes dataclasses: types, ranges, choices; 4. rules that join several keys.


# In YAML: ${unless:${oc.select:method.own_learning_rate,null},3.0e-3} is the method's own rate, or else this one.
OmegaConf.register_new_resolver("unless", lambda given, other: other if given is None else given, replace=True)
# ${at_scale:${hydra.runtime.choices.scale},{paper:'1,2',small:'1'}}: what an experiment goes through at each scale.
OmegaConf.register_new_resolver("at_scale", lambda scale, values: values[scale or "paper"], replace=True)

COMPOSING = (HydraException, OmegaConfBaseException)


def load_config(overrides: Sequence[str]) -> Config:
    """Compose `conf/config.yaml` with Hydra overrides into a checked config.

    Raises:
        UserError: with one message for each mistake found.
    """
    tree, errors = compose_tree(overrides)
    config = checked(tree, errors)
    chosen = [text for text in overrides if text.lstrip("+").startswith("allocation")]
    if chosen and config.method.experts is not None:
        raise UserError(own_number(chosen[0], config.method))
    return config


def checked(tree: dict[str, Any], errors: list[str], training: bool = True) -> Config:
    """The tree as a `Config` whose keys, types, ranges and combinations are right, with null defaults filled in."""
    config = build(Config, tree, errors := [*errors, *secrets_in(tree)])
    config = with_own_tasks(config, errors)
    config = with_single_task(config) if training else config
    wrong = {re.split("[=:]", error)[0].strip("'+~") for error in errors} - {""}
    # A wrong value was replaced by a default: what a rule says of that key would be about the default.
    errors = [*errors, *(rule for rule in check_config(config, training) if not any(key in rule for key in wrong))]
    if errors:
        raise UserError(*errors)
    return resolved(config)


def compose_tree(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The composed tree of the overrides that are right, and a message for each that is not."""
    errors: list[str] = []
    good = [text for text in overrides if not override_mistakes(text, errors) and not is_null_group(text)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        try:
            return _tree(good), errors
        except COMPOSING:
            return _tree(_fitting(good, errors)), errors


def _tree(overrides: list[str]) -> dict[str, Any]:
    tree = OmegaConf.to_container(compose("config", overrides=[forced(text) for text in overrides]), resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def forced(text: str) -> str:
    """As Hydra takes it: a key of the schema can be set whether or not the chosen option's file names it."""
    key = parse_override(text).key_or_group
    return text if key in group_options() or key.startswith("model.shape.") else f"++{text.lstrip('+')}"


def _fitting(overrides: list[str], errors: list[str]) -> list[str]:
    """The overrides that Hydra can apply, each tried alone on the chosen options; a message for each other one."""
    groups = [text for text in overrides if parse_override(text).key_or_group in group_options()]
    fitting = list(groups)
    for text in (text for text in overrides if text not in groups):
        try:
            _tree([*groups, text])
            fitting.append(text)
        except COMPOSING as error:
            lines = [line for line in str(error).splitlines()[:2] if "full_key" not in line]
            errors.append(f"{text}: {' '.join(lines)}.")
    return fitting


def parse_override(text: str) -> Override:
    """One `key=value` in Hydra's grammar."""
    return OverridesParser.create().parse_override(text)


def override_mistakes(text: str, errors: list[str]) -> bool:
    """Append what is wrong with one override; True if anything is."""
    before = len(errors)
    if text.startswith("-"):
        errors.append(f"{text}: unknown flag; arguments are key=value (see --help).")
        return True
    try:
        override = parse_override(text)
    except HydraException:
        errors.append(
            f"'{text}': is no override; write key=value or group=option (see --help); "
            "quote a value with special characters, as in key='a=b' or key=\"it's\"."
        )
        return True
    groups, key = group_options(), override.key_or_group
    if override.is_sweep_override():
        errors.append(
            f"{text}: several values make a sweep; add -m to train them all, give one value, or quote a text that has "
            "commas, as in key='a,b'."
        )
    elif override.is_delete():
        errors.append(f"{text}: keys cannot be deleted; set the key to null or to another value.")
    elif override.package is not None:
        errors.append(f"{text}: '@' is not used here; write {key}=...")
    elif key in groups:
        _wrong_option(override, groups[key], errors)
    else:
        problem = _unknown_key(key)
        if problem:
            errors.append(f"{text}: {problem}")
        elif override.is_add() and "shape" not in key:
            errors.append(f"{text}: the key exists; write {text.lstrip('+')} without the +.")
        elif isinstance(override.value(), dict) and not key.startswith(MAPS):
            errors.append(f"{text}: takes no map.")
    return len(errors) > before


def _wrong_option(override: Override, options: list[str], errors: list[str]) -> None:
    group, value = override.key_or_group, override.value()
    optional = group in OPTIONAL
    if override.is_add() or override.is_force_add():
        errors.append(f"{override.input_line}: the group exists; write it without the +.")
    elif not (value in options or (optional and value is None)):
        hint = f"{group} is a group; " if isinstance(value, list | dict | int) else ""
        extra = f"give numbers as allocation.experts={typed(value)}; " if group == "allocation" and hint else ""
        errors.append(f"{group}={typed(value)}: {hint}{extra}unknown option; {nearest(str(value), options)}")
    elif lacking := missing_plugin(f"{group}={value}"):
        errors.append(f"{group}={value}: {lacking}")


def _unknown_key(key: str) -> str:
    """What is wrong with a dotted key, or nothing."""
    cls: Any = Config
    parts = key.split(".")
    for position, part in enumerate(parts):
        hints = field_types(cls)
        where = ".".join(parts[:position])
        if part not in hints:
            if position == 0:
                shown = {*group_options(), *hints}
                return f"unknown key; {nearest(key, {*_all_keys(), *shown}, shown)}"
            return f"unknown key; {nearest(key, [f'{where}.{name}' for name in hints])}"
        cls = hints[part]
        if not dataclasses.is_dataclass(cls):
            rest = parts[position + 1 :]
            return "" if not rest or "dict" in str(cls) else f"unknown key; {where}.{part} has no keys of its own."
    return ""


def _all_keys() -> list[str]:
    keys: list[str] = []
    for name, hint in field_types(Config).items():
        nested = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        keys += [f"{name}.{inner}" for inner in field_types(hint)] if nested else [name]
    return keys
