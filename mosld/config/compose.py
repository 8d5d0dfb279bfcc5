"""From the command line to a checked `Config`: Hydra composes, and every mistake is reported in one message.

1. each override is checked alone: its grammar, its group and option, its key (nearest name);
2. Hydra composes the valid ones;
3. the tree becomes dataclasses: types, ranges, choices;
4. rules about several keys are checked;
5. null defaults are filled in and paths made absolute.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import yaml
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from mosld.common.errors import UserError, format_value, nearest
from mosld.common.files import JsonObject
from mosld.common.reading import check_yaml
from mosld.common.secrets import may_enter_config, secrets_in
from mosld.config.checks import check_config, own_tasks, single_task
from mosld.config.fields import build, dotted_fields, field_types
from mosld.config.groups import OPTIONAL_GROUPS, is_null_group, missing_plugin
from mosld.config.method_checks import explain_fixed_experts, with_absolute_paths, with_domains
from mosld.config.options import (
    config_directory,
    group_options,
    is_own,
    option_file,
    own_name,
    read_option,
    register_direct_option,
)
from mosld.config.revisions import resolve_revision
from mosld.config.schema import MAPS, SYNONYMS, TASKS, Config, DataConfig
from mosld.config.search_path import hydra_initialized
from mosld.config.unread import key_value

# In YAML: ${unless:${oc.select:method.own_learning_rate,null},3.0e-3} is the method's own rate, or else this one.
OmegaConf.register_new_resolver("unless", lambda value, default: default if value is None else value, replace=True)
# ${at_scale:${hydra.runtime.choices.scale},{paper:'1,2',small:'1'}}: the values of an experiment at each scale.
OmegaConf.register_new_resolver("at_scale", lambda scale, values: values[scale or "paper"], replace=True)

# Beside their own errors, what Hydra and OmegaConf raise where a file in conf/ has a value of the wrong type.
COMPOSE_ERRORS = (
    HydraException, OmegaConfBaseException, AssertionError, AttributeError, LookupError, TypeError, ValueError,
    RecursionError, yaml.YAMLError,
)  # fmt: skip


def _environment(name: str, *default: str | None) -> str | None:
    """${oc.env:NAME,default} of the variables that may stand in files."""
    if not may_enter_config(name):
        raise ValueError(f"{name} is not among the variables that a config may read (docs/explanation/reliability.md)")
    return oc.env(name, *default)


OmegaConf.register_new_resolver("oc.env", _environment, replace=True)


def load_config(overrides: Sequence[str]) -> Config:
    """Compose `conf/config.yaml` with Hydra overrides into a checked config.

    Raises:
        UserError: with one message per mistake.
    """
    tree, _, errors = compose_tree(overrides)
    config = checked_config(tree, errors, typed=_changed_keys(overrides, tree))
    allocations = [text for text in overrides if text.lstrip("+").startswith("allocation")]
    errors += [explain_fixed_experts(text, config.method) for text in allocations if config.method.experts is not None]
    if errors:
        raise UserError(*errors)
    return config


def compose_tree(overrides: Sequence[str]) -> tuple[JsonObject, dict[str, str], list[str]]:
    """The composed tree of the valid overrides, the option of each group, and a message for each other override."""
    errors: list[str] = []
    for file in sorted(config_directory().rglob("*.yaml")):
        check_yaml(file)
    errors += repeated_keys(overrides)
    valid = [text for text in overrides if not override_mistakes(text, errors) and not is_null_group(text)]
    valid = [*implied_groups(valid), *valid]
    with hydra_initialized():
        try:
            tree, options = _compose(valid)
        except COMPOSE_ERRORS:
            composable = _composable(valid, errors)
            try:
                tree, options = _compose(composable)
            except COMPOSE_ERRORS as error:
                # A file in conf/ is wrong, whatever the overrides.
                raise UserError(*errors, f"{config_directory()}: {' '.join(str(error).split())}") from error
    _name_own_options(tree, options, typed_keys(valid), errors)
    return tree, options, errors


def repeated_keys(overrides: Sequence[str]) -> list[str]:
    """A message for each key that has two values: Hydra would take the last and say nothing."""
    values: dict[str, str] = {}
    errors = []
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if values.setdefault(key, value) != value:
            errors.append(f"{text}: {key} is given twice, as {values[key]} before; leave one of the two out.")
    return errors


def _name_own_options(tree: JsonObject, options: Mapping[str, str], typed: Collection[str], errors: list[str]) -> None:
    """Name the user's options that have no name after their files, and report names that have two files."""
    for group, option in options.items():
        try:
            option_file(group, option)
            name = own_name(group, option)
        except UserError as error:
            errors += error.messages
            continue
        if name and f"{group}.name" not in typed:
            tree[group]["name"] = name


def _changed_keys(overrides: Sequence[str], tree: JsonObject) -> set[str]:
    """The typed keys, without those that are typed as the files have them."""
    keys = typed_keys(overrides)
    if not any(key.startswith(("model.", "method.own_learning_rate")) for key in keys):
        return keys
    files = compose_tree([text for text in overrides if typed_keys([text]) <= {*group_options()}])[0]
    return {key for key in keys if key_value(tree, key) != key_value(files, key)}


def typed_keys(overrides: Sequence[str]) -> set[str]:
    """The keys and groups that valid overrides set."""
    keys = set()
    for text in overrides:
        # A number of thousands of digits is no Hydra error.
        with suppress(HydraException, ValueError):
            keys.add(parse_override(text).key_or_group)
    return keys


def implied_groups(overrides: Sequence[str]) -> list[str]:
    """The options that `source.root` implies: source=local where no source is chosen, and data=local without data."""
    keys = {parse_override(text).key_or_group for text in overrides}
    if "source.root" not in keys or "source" in keys:
        return []
    chosen = {"data", "experiment", "data.kind", "data.name"} & keys
    return ["source=local"] if chosen else ["source=local", "data=local"]


def checked_config(tree: JsonObject, errors: list[str], training: bool = True, typed: Collection[str] = ()) -> Config:
    """The tree as a `Config` whose keys, types, ranges and combinations are valid, with null defaults filled in.

    Args:
        tree: what Hydra composed, or a run recorded.
        errors: the mistakes found so far.
        training: False leaves out what matters to training only.
        typed: the keys that the user typed; one that has no effect is a mistake.

    Raises:
        UserError: with one message per mistake.
    """
    errors = [*errors, *secrets_in(tree)]
    config = build(Config, tree, errors)
    try:
        tasks = own_tasks(config.data, config.source)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, tasks=tasks))
    except UserError as error:
        errors += error.messages
    if training:
        config = dataclasses.replace(config, data=_narrow_to_single_task(config.data))
    # A wrong value was replaced by a default: a rule about that key would speak of the default.
    wrong_keys = {re.split("[=:]", error)[0].strip("'+~") for error in errors} - {""}
    errors += [rule for rule in check_config(config, training, typed) if not any(key in rule for key in wrong_keys)]
    if errors:
        raise UserError(*errors)
    return _fill_in(config)


def _compose(overrides: list[str]) -> tuple[JsonObject, dict[str, str]]:
    """The composed tree, and the option of each group."""
    composed = compose("config", overrides=[forced(text) for text in overrides], return_hydra_config=True)
    choices = composed.hydra.runtime.choices
    options = {group: choices[group] for group in group_options() if choices.get(group)}
    with open_dict(composed):
        del composed["hydra"]
    tree = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}, options


def forced(text: str) -> str:
    """The override as Hydra takes it: a key of the schema can be set whether or not the option's file names it."""
    key = parse_override(text).key_or_group
    return text if key in group_options() or key.startswith("model.shape.") else f"++{text.lstrip('+')}"


def _composable(overrides: list[str], errors: list[str]) -> list[str]:
    """The overrides that Hydra can apply, each tried alone on the chosen options; a message for each other one."""
    groups = [text for text in overrides if parse_override(text).key_or_group in group_options()]
    composable = list(groups)
    for text in (text for text in overrides if text not in groups):
        try:
            _compose([*groups, text])
            composable.append(text)
        except COMPOSE_ERRORS as error:
            lines = [line for line in str(error).splitlines()[:2] if "full_key" not in line]
            errors.append(f"{text}: {' '.join(lines)}.")
    return composable


def parse_override(text: str) -> Override:
    """One `key=value` in Hydra's grammar."""
    return OverridesParser.create().parse_override(text)


def override_mistakes(text: str, errors: list[str]) -> bool:
    """Append what is wrong with one override to `errors`; True if anything is."""
    count = len(errors)
    if text.startswith("-"):
        key, _, value = text.lstrip("-").replace("-", "_").partition("=")
        hint = _unknown_key(key)
        close = re.search(r"did you mean '(.*?)'", hint)
        meant = close[1] if close else "" if hint else key
        example = f", as in {meant}={value or '...'}" if meant else ""
        errors.append(f"{text}: unknown flag; arguments are key=value{example} (see --help).")
        return True
    try:
        override = parse_override(text)
    # Python refuses a number of thousands of digits.
    except (HydraException, ValueError, RecursionError):
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
        _check_option(override, groups[key], errors)
    else:
        _check_key(text, override, errors)
    return len(errors) > count


def _check_option(override: Override, options: list[str], errors: list[str]) -> None:
    group, value = override.key_or_group, override.value()
    if override.is_add() or override.is_force_add():
        errors.append(f"{override.input_line}: the group exists; write it without the +.")
    elif value in options or (group in OPTIONAL_GROUPS and value is None):
        if problem := missing_plugin(f"{group}={value}"):
            errors.append(f"{group}={value}: {problem}")
        elif value is not None:
            _check_own_file(group, str(value), errors)
    elif not _is_direct(group, value, errors):
        hint = ""
        if isinstance(value, list | dict | int):
            hint = f"{group} is a group; "
            if group == "allocation":
                hint += f"give numbers as allocation.experts={format_value(value)}; "
        errors.append(f"{group}={format_value(value)}: {hint}unknown option; {nearest(str(value), options)}")


def _check_own_file(group: str, option: str, errors: list[str]) -> None:
    """Report an option of the user's whose file cannot be read, or whose name has two files."""
    try:
        path = option_file(group, option)
        if path and is_own(path):
            read_option(group, path)
    except UserError as error:
        errors += error.messages


def _is_direct(group: str, value: object, errors: list[str]) -> bool:
    """Whether a value names a file or a model; a file that cannot be read is reported."""
    try:
        return isinstance(value, str) and register_direct_option(group, value)
    except UserError as error:
        errors += error.messages
        return True


def _check_key(text: str, override: Override, errors: list[str]) -> None:
    key = override.key_or_group
    problem = _unknown_key(key)
    if problem:
        errors.append(f"{text}: {problem}")
    elif override.is_add() and "shape" not in key:
        errors.append(f"{text}: the key exists; write {text.lstrip('+')} without the +.")
    elif isinstance(override.value(), dict) and not key.startswith(MAPS):
        errors.append(f"{text}: takes no map.")


def _unknown_key(key: str) -> str:
    """What is wrong with a dotted key; "" if nothing."""
    cls: type = Config
    parts = key.split(".")
    synonym = SYNONYMS.get(parts[-1].lower().replace("-", "_"))
    if synonym and (len(parts) == 1 or parts[0] == synonym.partition(".")[0]):
        return f"unknown key; did you mean '{synonym}'?"
    for position, part in enumerate(parts):
        types = field_types(cls)
        prefix = ".".join(parts[:position])
        if part not in types:
            if position == 0:
                shown = {*group_options(), *types}
                keys = {name for name, *_ in dotted_fields(Config)}
                return f"unknown key; {nearest(key, keys | shown, shown)}"
            return f"unknown key; {nearest(key, [f'{prefix}.{name}' for name in types])}"
        cls = types[part]
        if not dataclasses.is_dataclass(cls):
            rest = parts[position + 1 :]
            return "" if not rest or "dict" in str(cls) else f"unknown key; {prefix}.{part} has no keys of its own."
    return ""


def _narrow_to_single_task(data: DataConfig) -> DataConfig:
    """The data of a `single_*` setting with its one task, where `data.tasks` names it among others.

    So one list serves a sweep over mixture and single settings, whose single jobs are then those of plain commands. A
    list without the task, or with a mistake in it, stays as it is: `check_single_task` and other rules report it.
    """
    task, tasks = single_task(data), data.tasks
    if task not in tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= set(TASKS):
        return data
    others = set(tasks) - {task}
    return dataclasses.replace(
        data,
        tasks=[task],
        weights={name: weight for name, weight in data.weights.items() if name not in others},
        n_openorca=None if "openorca" in others else data.n_openorca,
    )


def _fill_in(config: Config) -> Config:
    """Fill in the keys whose null means "as the model's config says", and make paths absolute.

    `config.yaml` then records what was used, and a directory has one name wherever the command is format_value.
    """
    model, source, method = config.model, config.source, config.method
    if model.path:
        path = Path(model.path).expanduser().resolve()
        model = dataclasses.replace(model, name=path.name, path=str(path))
    elif model.kind == "hub" and model.hub:
        model = dataclasses.replace(model, revision=resolve_revision(model.hub, model.revision))
    if source.root:
        source = dataclasses.replace(source, root=str(Path(source.root).expanduser().resolve()))
    if method.router == "domain":
        method = with_domains(method, config.data.tasks, config.init_from)
    method = with_absolute_paths(method)
    score_base = model.score_base if config.evaluation.base is None else config.evaluation.base
    return dataclasses.replace(
        config,
        model=model,
        method=method,
        data=_without_shares(config.data),
        source=source,
        init_from=str(Path(config.init_from).resolve()) if config.init_from else None,
        evaluation=dataclasses.replace(config.evaluation, base=score_base),
        prompt=config.prompt or model.prompt,
    )


def _without_shares(data: DataConfig) -> DataConfig:
    """With one task every share is the whole: the same run, so the same name, as without weights or temperature."""
    if len(data.tasks) != 1 or data.mixing not in ("weights", "temperature"):
        return data
    return dataclasses.replace(data, mixing="concatenate", weights={}, temperature=1.0)
