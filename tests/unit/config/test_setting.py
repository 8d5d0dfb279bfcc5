"""`setting` and `build`: a plain tree becomes a typed dataclass, with every mistake reported in one pass."""

from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest

from mosld.config.fields import build, setting


@dataclass(frozen=True)
class Inner:
    depth: int = setting(1, "Depth.", minimum=1)


@dataclass(frozen=True)
class Outer:
    count: int = setting(2, "Count.", minimum=1, below=10)
    ratio: float = setting(0.5, "Ratio.", minimum=0, below=1)
    flag: bool = setting(False, "Flag.")
    name: str = setting("a", "Name.", choices=("a", "b", "long"))
    place: str | None = setting(None, "Place.")
    limit: int | None = setting(None, "Limit.", minimum=1)
    sizes: int | list[int] = setting(5, "Sizes.", minimum=1)
    tasks: list[str] = setting([], "Tasks.", choices=("x", "y"))
    shape: dict[str, Any] = setting({}, "Shape.")
    inner: Inner = Inner()


def built(tree: dict[str, Any]) -> tuple[Outer, list[str]]:
    errors: list[str] = []
    return build(Outer, tree, errors), errors


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("count", 3, 3),
        ("ratio", 0, 0.0),
        ("ratio", 0.25, 0.25),
        ("flag", True, True),
        ("name", "b", "b"),
        ("place", 2024, "2024"),
        ("place", None, None),
        ("limit", None, None),
        ("limit", 1, 1),
        ("sizes", 3, 3),
        ("sizes", [8, 2], [8, 2]),
        ("tasks", ["y", "x"], ["y", "x"]),
        ("shape", {"a": {"b": 1}}, {"a": {"b": 1}}),
        ("inner", {"depth": 4}, Inner(4)),
    ],
)
def test_valid_value_has_the_type_of_its_field(key: str, value: Any, expected: Any):
    converted = getattr(built({key: value})[0], key)
    assert (converted, type(converted)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("count", 0, "at least 1"),
        ("count", 10, "below 10"),
        ("count", 2.0, "a whole number"),
        ("count", True, "a whole number"),
        ("count", "3", "a whole number"),
        ("count", None, "a whole number"),
        ("ratio", 1, "below 1"),
        ("ratio", -0.1, "at least 0"),
        ("ratio", True, "a number"),
        ("ratio", float("nan"), "a finite number"),
        ("ratio", float("inf"), "a finite number"),
        ("flag", 1, "true or false"),
        ("flag", "true", "true or false"),
        ("name", "lomg", "did you mean 'long'"),
        ("name", ["a"], "text"),
        ("place", True, "text or null"),
        ("limit", "ten", "a whole number or null"),
        ("limit", 0, "at least 1"),
        ("sizes", [3, 0], "at least 1"),
        ("sizes", [3, "x"], "a whole number"),
        ("tasks", "x", "a list"),
        ("tasks", ["x", "z"], "unknown value"),
        ("tasks", [None], "text"),
        ("shape", 3, "a map"),
        ("inner", 3, "a group of keys"),
    ],
)
def test_wrong_value_is_reported_with_key_and_reason(key: str, value: Any, part: str):
    _, errors = built({key: value})
    assert [key in error and part in error for error in errors] == [True]


@pytest.mark.parametrize(("key", "near"), [("cuont", "count"), ("rattio", "ratio")])
def test_unknown_key_is_reported_with_the_nearest(key: str, near: str):
    assert f"did you mean '{near}'" in built({key: 1})[1][0]


def test_all_mistakes_of_all_levels_are_reported_at_once_with_dotted_keys():
    tree = {"count": 0, "ratio": "x", "foo": 1, "tasks": 3, "inner": {"depth": None, "bar": 2}}
    _, errors = built(tree)
    starts = sorted(error.split(":")[0].split("=")[0] for error in errors)
    assert starts == ["count", "foo", "inner.bar", "inner.depth", "ratio", "tasks"]


def test_two_wrong_entries_of_a_list_are_both_named():
    (error,) = built({"tasks": ["x", "p", "q"]})[1]
    assert error.startswith("tasks=[x,p,q]: unknown value 'p', 'q';")


def test_missing_and_wrong_values_take_the_default():
    assert built({})[0] == built({"count": 99})[0] == Outer()


def test_default_list_is_not_shared_between_configs():
    first, second = built({})[0], built({})[0]
    assert first.tasks is not second.tasks


def test_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        built({})[0].count = 4  # type: ignore[misc]
