"""The one place that reads JSON and YAML that others may have written: of the right shape, or one message."""

import errno
import json
import os
import stat
from collections.abc import Hashable
from dataclasses import is_dataclass
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import yaml

from mosld.common.errors import UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
# A short YAML file can name its parts again and again, and grow to any size when it is read.
MAX_YAML_NODES = 1_000_000
MAX_YAML_DEPTH = 100
# Of a file that is read as a whole.
MAX_BYTES = 2**30
# libyaml where it is there.
YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_json(content: str | bytes, where: object) -> object:
    """The JSON document in a text; `where` names it in messages.

    Raises:
        UserError: it is none, is no UTF-8, or is nested too deeply.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is no JSON that can be read ({error}).") from error


def load_json(path: Path, shape: type[T]) -> T:
    """The JSON document in a file, of a shape that `require_shape` takes.

    Raises:
        UserError: the file cannot be read, is no JSON, or has another shape.
    """
    return require_shape(parse_json(read_text(path), path), shape, path)


def load_yaml(path: Path) -> dict[str, object]:
    """The map in a YAML file, of plain values only.

    Raises:
        UserError: the file cannot be read, is no YAML, holds no map, or grows without end when it is read.
    """
    text = check_yaml(path)
    try:
        tree = yaml.load(text, Loader=YamlLoader)
    # PyYAML passes on what Python raises on !!int "", !!bool x and their like.
    except Exception as error:
        raise UserError(_no_yaml(path, error)) from error
    return require_shape(tree, dict[str, object], path)


def check_yaml(path: Path) -> str:
    """The text of a YAML file that can be made into values.

    Raises:
        UserError: as `load_yaml`.
    """
    text = read_text(path)
    try:
        if _aliases(text):
            _require_finite(cast("yaml.Node", yaml.compose(text, Loader=YamlLoader)))
    except (yaml.YAMLError, _WrongYamlError) as error:
        raise UserError(_no_yaml(path, error)) from error
    return text


class _WrongYamlError(Exception):
    """The values of a YAML document are no map, too many or too deep."""


def _aliases(text: str) -> int:
    """How many aliases a YAML map has; what libyaml would crash on, deep nesting, is refused first."""
    depth = count = 0
    for event in yaml.parse(text, Loader=YamlLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        count += isinstance(event, yaml.AliasEvent)
        value = isinstance(event, yaml.SequenceEndEvent) or (isinstance(event, yaml.ScalarEvent) and event.value)
        if value and not depth:
            raise _WrongYamlError("it holds no map")
        if depth > MAX_YAML_DEPTH:
            raise _WrongYamlError(f"it is nested more than {MAX_YAML_DEPTH} deep")
    return count


def _require_finite(document: yaml.Node) -> None:
    """Refuse a YAML document that contains itself, or that repeats its parts beyond `MAX_YAML_NODES`."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.setdefault(id(node), 0)
        if known is None:
            raise _WrongYamlError("an alias stands within what it names")
        if not known:
            sizes[id(node)] = None
            pairs = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for entry in pairs for part in (entry if isinstance(entry, tuple) else (entry,))]
            sizes[id(node)] = known = 1 + sum(map(size, parts))
        return known

    if size(document) > MAX_YAML_NODES:
        raise _WrongYamlError(f"its aliases repeat more than {MAX_YAML_NODES:,} values")


def _no_yaml(path: Path, error: Exception) -> str:
    return f"{path}: is no YAML that can be read ({' '.join(str(error).split())})."


def require_shape(tree: object, shape: type[T], where: object) -> T:
    """The tree, if it is a `shape`: a type of Python, also a TypedDict, whose unknown keys are left alone.

    A dataclass is made from its map.

    Raises:
        UserError: it is none; the message names the first key that is wrong.
    """
    from pydantic import ValidationError  # here for a fast --help

    is_class = is_dataclass(shape)
    try:
        value = _adapter(cast("Hashable", shape)).validate_python(tree, strict=not is_class)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: is damaged: {f'{key}: ' if key else ''}{first['msg']}.") from error
    return value if is_class else cast("T", tree)


@cache
def _adapter(shape: Hashable) -> "TypeAdapter":
    from pydantic import TypeAdapter  # here for a fast --help

    return TypeAdapter(cast("type", shape))


def open_file(path: Path) -> BufferedReader:
    """Open a file to read.

    Raises:
        OSError: it cannot be opened, or is a pipe, which would keep its reader waiting, or a device.
    """
    # Windows has no such pipes.
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.ENXIO, "it is no regular file", str(path))
    return file


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UserError: it cannot be read, is no UTF-8, or has more than `MAX_BYTES`.
    """
    try:
        with open_file(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise UserError(f"{path}: is damaged: it has more than {MAX_BYTES:,} bytes.")
            return file.read().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is damaged: byte {error.start} is no UTF-8.") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a file of JSON objects; what else ends a line in Unicode may stand within one.

    Raises:
        UserError: as `read_text`.
    """
    return [line for line in read_text(path).split("\n") if line]
