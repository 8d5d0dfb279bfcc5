"""A finished run's config with overrides on top: what `mosld.eval` scores, and how."""

import copy
from collections.abc import Sequence
from typing import Any

from mosld.config.compose import checked, override_mistakes, parse_override
from mosld.config.errors import UserError
from mosld.config.parts import option_tree
from mosld.config.schema import Config

# What scoring may change; all else is what the run was trained with.
OPEN = ("data", "source", "evaluation", "prompt", "model.dtype", "model.path", "model.attention")


def rerun_config(recorded: dict[str, Any], overrides: Sequence[str]) -> Config:
    """The recorded config with data, source, prompt and evaluation overridden.

    Raises:
        UserError: with one message for each mistake.
    """
    tree, errors = copy.deepcopy(recorded), list[str]()
    # Groups first, as Hydra does: a key of a group holds whatever the order.
    for text in sorted(overrides, key=lambda given: "." in given.split("=")[0]):
        if override_mistakes(text, errors):
            continue
        override = parse_override(text)
        key, value = override.key_or_group, override.value()
        if not any(key == name or key.startswith(f"{name}.") for name in OPEN):
            errors.append(f"{text}: is fixed by the run; what can be set here: run, {', '.join(OPEN)}.")
        elif "." in key or key == "prompt":
            _set(tree, key.split("."), value)
        else:
            tree[key] = option_tree(key, str(value), errors)
    return checked(tree, errors, training=False)


def _set(tree: Any, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def require_run(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Split `run=DIR` from the other arguments.

    Raises:
        UserError: it is missing.
    """
    given = [argument.removeprefix("run=") for argument in arguments if argument.startswith("run=")]
    if len(given) != 1 or not given[0]:
        raise UserError("run: name one run or adapter directory, as in run=outputs/mixture/smollm2_135m/mosld-...")
    return given[0], [argument for argument in arguments if not argument.startswith("run=")]
