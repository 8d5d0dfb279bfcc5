"""Completion in a shell, by argcomplete: commands, groups and their options, keys and their choices, flags, files."""

import argparse
import importlib
from collections.abc import Mapping

import argcomplete

from mosld.config.fields import dotted_fields
from mosld.config.options import group_options
from mosld.config.schema import Config

# The commands that take groups and keys.
CONFIG_COMMANDS = ("train", "eval", "plan")


def complete(modules: Mapping[str, str]) -> None:
    """Print the completions of what the shell passes in its environment, and exit.

    Args:
        modules: the module of each command, whose `_parser` says its flags.
    """
    parser = argparse.ArgumentParser("mosld")
    commands = parser.add_subparsers()
    for name, module in modules.items():
        if name in CONFIG_COMMANDS:
            command = commands.add_parser(name)
            for flag in ("--config-dir", "--output"):
                command.add_argument(flag)
            command.add_argument("--cfg", action="store_true")
            words = command.add_argument("words", nargs="*")
            words.completer = _settings  # type: ignore[attr-defined]
        elif module:
            commands.add_parser(name, parents=[importlib.import_module(module)._parser()], add_help=False)
        else:
            commands.add_parser(name)
    argcomplete.autocomplete(parser, always_complete_options=False)


def _settings(prefix: str, **_: object) -> list[str]:
    """Groups, keys and files that begin with `prefix`; behind the = the options and choices, or else files."""
    values = group_options() | {
        key: ["true", "false"] if hint is bool else list(field.metadata["choices"])
        for key, field, hint in dotted_fields(Config)
    }
    files = argcomplete.completers.FilesCompleter()
    key, equals, value = prefix.partition("=")
    if not equals:
        return [*(f"{name}=" for name in values), *files(prefix)]
    choices = [choice for choice in values.get(key, []) if choice.startswith(value)]
    return [f"{key}={choice}" for choice in choices or files(value)]
