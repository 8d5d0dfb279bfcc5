"""What `--help` and `--cfg` print: groups and keys with their values, and where each value comes from."""

import dataclasses
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from mosld.common.errors import UserError, format_value
from mosld.common.files import JsonObject
from mosld.config.compose import compose_tree, load_config, typed_keys
from mosld.config.fields import dotted_fields
from mosld.config.groups import option_tree
from mosld.config.options import config_directory, group_options, is_own, option_file, read_option
from mosld.config.schema import MAPS, Config
from mosld.config.unread import key_value

# The groups whose files set keys of other groups; a later one overrides an earlier one.
GLOBAL_GROUPS = ("experiment", "scale", "debug", "sweep")
KEY_COLUMNS = 36


def describe_keys(arguments: Sequence[str]) -> str:
    """Every group with its options, every key with its value and meaning, and what the options among them set."""
    groups = group_options()
    typed = dict(text.split("=", 1) for text in arguments if text.split("=", 1)[0] in groups and "=" in text)
    chosen = {**_chosen(config_directory() / "config.yaml"), **typed}
    for group, option in typed.items():
        path = option_file(group, option)
        chosen = {**chosen, **(_chosen(path) if path else {}), **typed}
    lines = [_bold("Groups (group=option; * is chosen):")]
    for group, options in groups.items():
        names = [f"{name}*" if name == chosen.get(group) else name for name in options]
        lines += wrapped(f"  {group}=", " | ".join(names), 4)
    for group, option in typed.items():
        lines += ["", _bold(f"{group}={option} sets:")]
        lines += [f"  {key}={value}" for key, value in _settings(group, option)]
    lines += ["", _bold("Keys (key=value; the values are those of the options chosen above):")]
    return "\n".join([*lines, *_keys(_values(chosen))])


def _chosen(path: Path) -> dict[str, str]:
    """The options of other groups that a file chooses in its defaults."""
    entries = [entry for entry in read_option("config", path).get("defaults", []) if isinstance(entry, dict)]
    pairs = ((key, option) for entry in entries for key, option in entry.items() if option and "hydra/" not in key)
    return {key.removeprefix("override ").removeprefix("/").partition("@")[0]: option for key, option in pairs}


def _values(chosen: dict[str, str]) -> JsonObject:
    """The keys that the chosen options set. Hydra, which composes a run, would take a quarter of a second.

    Raises:
        UserError: an option is unknown.
    """
    errors: list[str] = []
    trees = {group: option_tree(group, option, errors) for group, option in chosen.items()}
    if errors:
        raise UserError(*errors)
    overlays = [trees.pop(group) for group in GLOBAL_GROUPS if group in trees]
    tree = OmegaConf.merge(trees, *({key: value for key, value in one.items() if key != "hydra"} for one in overlays))
    values = OmegaConf.to_container(tree, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _settings(group: str, option: str) -> Iterator[tuple[str, str]]:
    """The keys that an option sets, dotted, with their values."""
    tree = option_tree(group, option, [])
    yield from _flat(tree if group in GLOBAL_GROUPS else {group: tree}, "")


def _flat(tree: JsonObject, prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict) and f"{prefix}{key}" not in MAPS:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", format_value(value)


def _keys(chosen: JsonObject) -> Iterator[str]:
    values = dict(_flat(dataclasses.asdict(Config()), "")) | dict(_flat(chosen, ""))
    for key, field, hint in dotted_fields(Config):
        value = "{...}" if values[key].startswith("{") and values[key] != "{}" else values[key]
        choices = ("true", "false") if hint is bool else field.metadata["choices"]
        listed = f" [{' | '.join(choices)}]" if choices else ""
        yield from wrapped(f"  {key}={value} ".ljust(KEY_COLUMNS), field.metadata["help"] + listed, KEY_COLUMNS)


def wrapped(first: str, text: str, indent: int) -> list[str]:
    """Lines no wider than the terminal, all but the first indented."""
    width = max(60, shutil.get_terminal_size().columns)
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * indent, break_long_words=False)


def fit(text: str) -> str:
    """Break the paragraphs of a text where the terminal is narrower; indented lines stay."""
    width = max(60, shutil.get_terminal_size().columns)
    lines = (line if line[:1] in ("", " ") else textwrap.fill(line, width) for line in text.splitlines())
    return "\n".join(lines) if max(map(len, text.splitlines())) > width else text


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def describe_config(overrides: Sequence[str]) -> str:
    """Every key of the composed config with its value and where that comes from.

    Raises:
        UserError: with one message per mistake.
    """
    config = dataclasses.asdict(load_config(overrides))
    tree, options, _ = compose_tree(overrides)
    typed = typed_keys(overrides)
    files = [group for group in reversed(GLOBAL_GROUPS) if group in options] + [*options]
    sources = {_origin(group, options[group]): dict(_settings(group, options[group])) for group in files}
    main = OmegaConf.to_container(OmegaConf.load(config_directory() / "config.yaml"))
    sources["conf/config.yaml"] = dict(_flat(main, ""))  # type: ignore[arg-type]
    lines = []
    for key, value in _flat(config, ""):
        origin = next((source for source, keys in sources.items() if key in keys), "default")
        if any(name == key or name.startswith(f"{key}.") for name in typed):
            origin = "command line"
        elif origin != "default" and key_value(tree, key) != key_value(config, key):
            origin += ", filled in"
        lines.append(f"{key}={value}".ljust(KEY_COLUMNS) + f"  # {origin}")
    return "\n".join(lines)


def _origin(group: str, option: str) -> str:
    """The file of an option: of the package below conf/, of the user as it lies."""
    path = option_file(group, option)
    if path is None:
        return f"{group}={option}"
    return str(path) if is_own(path) else f"conf/{path.relative_to(config_directory())}"
