"""Typed settings: how a field of a config dataclass is declared, and how a plain tree becomes such a dataclass.

A field is declared once with `setting(default, help, ...)`. Its help text, range, choices and whether it can affect
results stand there, and nowhere else: `--help`, the checks and the run's hash all read them from the field.
"""

import copy
import dataclasses
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar, Union, get_args, get_origin, get_type_hints

from mosld.common.errors import format_value, nearest

T = TypeVar("T")
# No count and no factor comes near it; beyond it, float32 or a seed of numpy overflow somewhere.
LARGEST = 2.0**31
TYPE_NAMES = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a map", type(None): "null",
}  # fmt: skip


def setting(
    default: T,
    help: str,
    *,
    minimum: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    other_values: bool = False,
    affects_results: bool = True,
    hash_default: bool = True,
) -> T:
    """Declare one field of a config dataclass.

    Args:
        default: the value where neither a YAML file nor an override sets one.
        help: one line for `--help`: what it is, its unit, what moving it does.
        minimum: the smallest value allowed.
        below: the value must be smaller than this.
        choices: the only strings allowed.
        other_values: the choices are names beside which other values are allowed.
        affects_results: False keeps the key out of the hash at the end of a run's name.
        hash_default: False keeps the key out of that hash while it has its default, so that runs made before the key
            existed keep their names.
    """
    rules = {
        "help": help,
        "minimum": minimum,
        "below": below,
        "choices": tuple(choices),
        "other_values": other_values,
        "affects_results": affects_results,
        "hash_default": hash_default,
    }
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=rules)
    return dataclasses.field(default=default, metadata=rules)


def field_types(cls: type) -> dict[str, type]:
    """The resolved type of every field of a config dataclass; unions such as `int | None` are among them."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def dotted_fields(cls: type, prefix: str = "") -> Iterator[tuple[str, "dataclasses.Field[object]", type]]:
    """Every key of a config dataclass and of the groups in it, dotted, with its field and its type."""
    hints = field_types(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from dotted_fields(hint, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field, hint


def build(cls: type[T], tree: Mapping[str, object], errors: list[str], prefix: str = "") -> T:
    """Make a `cls` from a plain tree, appending every wrong key, type, range or choice to `errors`.

    A wrong value is replaced by the field's default, so that one pass finds all mistakes.
    """
    hints = field_types(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, object] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if key not in hints:
            errors.append(f"{path}: unknown key; {nearest(path, [prefix + name for name in hints])}")
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                values[key] = build(hints[key], value, errors, f"{path}.")
            else:
                errors.append(f"{path}={format_value(value)}: is a group of keys.")
        else:
            problem, converted = _convert(value, hints[key])
            problem = problem or _broken_rule(converted, fields[key])
            if problem:
                errors.append(f"{path}={format_value(value)}: {problem.rstrip('.')}.")
            else:
                values[key] = converted
    return cls(**values)


def _convert(value: object, hint: type) -> tuple[str, object]:
    """What is wrong with the type of a value ("" if nothing), and the value as the type of the hint."""
    if get_origin(hint) in (Union, types.UnionType):
        return _convert_to_any(value, get_args(hint))
    if get_origin(hint) is list:
        return _convert_list(value, hint)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and number:
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number", None
        # A whole number may be beyond the range of floats; `_broken_rule` refuses it.
        return "", float(value) if abs(value) < LARGEST else value  # type: ignore[arg-type]
    if hint is str and number:
        # A directory may be called 2024.
        return "", str(value)
    if get_origin(hint) is dict:
        return ("", value) if isinstance(value, dict) else ("must be a map, as in {a: 1}", None)
    if isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return "", value
    return f"must be {_type_name(hint)}", None


def _convert_to_any(value: object, options: Sequence[type]) -> tuple[str, object]:
    for option in options:
        problem, converted = _convert(value, option)
        if not problem:
            return "", converted
    return f"must be {' or '.join(map(_type_name, options))}", None


def _convert_list(value: object, hint: type) -> tuple[str, object]:
    if not isinstance(value, list):
        shown = format_value(value)
        # From Python, "[a,b]" is a text.
        return f"must be {_type_name(hint)}, as in {shown if shown.startswith('[') else f'[{shown}]'}", None
    (item_type,) = get_args(hint)
    entries = [_convert(entry, item_type) for entry in value]
    problem = next((problem for problem, _ in entries if problem), "")
    return (f"every entry {problem}", None) if problem else ("", [entry for _, entry in entries])


def _broken_rule(value: object, field: "dataclasses.Field[object]") -> str:
    """Which of the field's rules (choices, minimum, below) a value of the right type breaks; "" if none."""
    rules = field.metadata
    choices = () if rules["other_values"] else rules["choices"]
    if choices and isinstance(value, str) and value not in choices:
        return f"unknown value; {nearest(value, choices)}"
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, int | float) and not isinstance(entry, bool):
            if rules["minimum"] is not None and entry < rules["minimum"]:
                return f"must be at least {rules['minimum']}"
            below = LARGEST if rules["below"] is None else rules["below"]
            if entry >= below:
                return f"must be below {below:.15g}"
    return ""


def _type_name(hint: type) -> str:
    if get_origin(hint) is list:
        return f"a list ({_type_name(get_args(hint)[0])} each)"
    return TYPE_NAMES.get(get_origin(hint) or hint, str(hint))
