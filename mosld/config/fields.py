"""Typed settings: how a field of a config dataclass is declared, and how a plain tree becomes such a dataclass.

A field is declared once with `setting(default, help, ...)`. Its help text, range, choices and whether it can affect
results stand there, and nowhere else: `--help`, the checks and the run's hash all read them from the field.
"""

import dataclasses
import math
import types
from collections.abc import Sequence
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from mosld.common.errors import nearest, typed

T = TypeVar("T")


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    affects_results: bool = True,
) -> Any:
    """Declare one field.

    Args:
        default: the value where neither a YAML file nor an override names one.
        help: one line for `--help`: what it is, its unit, what moving it does.
        minimum: the smallest value allowed.
        below: the value must be smaller than this.
        choices: the only strings allowed.
        affects_results: False keeps the key out of the hash at the end of a run's name.
    """
    rules = {
        "help": help,
        "minimum": minimum,
        "below": below,
        "choices": tuple(choices),
        "affects_results": affects_results,
    }
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=rules)
    return dataclasses.field(default=default, metadata=rules)


def field_types(cls: type) -> dict[str, Any]:
    """The resolved type of every field of a config dataclass."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def build(cls: type[T], tree: dict[str, Any], errors: list[str], where: str = "") -> T:
    """Make a `cls` from a plain tree, appending every wrong key, type, range or choice to `errors`.

    A wrong value is replaced by the field's default, so that one pass finds all mistakes.
    """
    hints = field_types(cls)
    values: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{where}{key}"
        if key not in hints:
            errors.append(f"{path}: unknown key; {nearest(path, [where + name for name in hints])}")
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                values[key] = build(hints[key], value, errors, f"{path}.")
            else:
                errors.append(f"{path}={typed(value)}: is a group of keys.")
        else:
            problem, converted = _convert(value, hints[key])
            rules = next(f.metadata for f in dataclasses.fields(cls) if f.name == key)  # type: ignore[arg-type]
            problem = problem or _outside(converted, rules)
            if problem:
                errors.append(f"{path}={typed(value)}: {problem.rstrip('.')}.")
            else:
                values[key] = converted
    return cls(**values)


def _convert(value: Any, hint: Any) -> tuple[str, Any]:
    """The value as the type of the hint (an int passes as a float), or what is wrong with it."""
    if get_origin(hint) in (Union, types.UnionType):
        options = get_args(hint)
        for option in options:
            problem, converted = _convert(value, option)
            if not problem:
                return "", converted
        return f"must be {' or '.join(_type_name(o) for o in options)}", None
    if hint is type(None) or hint is bool:
        fits = value is None if hint is type(None) else isinstance(value, bool)
        return ("", value) if fits else (f"must be {_type_name(hint)}", None)
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        if not isinstance(value, list):
            return f"must be {_type_name(hint)}, as in [{typed(value)}]", None
        converted = [_convert(entry, item) for entry in value]
        problem = next((problem for problem, _ in converted if problem), "")
        return (f"every entry {problem}", None) if problem else ("", [entry for _, entry in converted])
    if get_origin(hint) is dict:
        return ("", value) if isinstance(value, dict) else ("must be a map, as in {a: 1}", None)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return ("", float(value)) if math.isfinite(value) else ("must be a finite number", None)
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return "", str(value)  # a directory may be called 2024
    if isinstance(value, hint) and not isinstance(value, bool):
        return "", value
    return f"must be {_type_name(hint)}", None


def _outside(value: Any, rules: Any) -> str:
    """What rule of its field a value breaks, or nothing."""
    entries = value if isinstance(value, list) else [value]
    unknown = [entry for entry in entries if isinstance(entry, str) and entry not in rules["choices"]]
    if rules["choices"] and unknown:
        which = f" {', '.join(map(repr, unknown))}" if isinstance(value, list) else ""
        return f"unknown value{which}; {nearest(unknown[0], rules['choices'])}"
    for entry in entries:
        if isinstance(entry, int | float) and not isinstance(entry, bool):
            if rules["minimum"] is not None and entry < rules["minimum"]:
                return f"must be at least {rules['minimum']}"
            if rules["below"] is not None and entry >= rules["below"]:
                return f"must be below {rules['below']}"
    return ""


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    if get_origin(hint) is list:
        return f"a list ({_type_name(get_args(hint)[0])} each)"
    return names.get(hint, "a map" if get_origin(hint) is dict else str(hint))
