"""The numbers as lines over the layers, which figures draw and the table averages."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Line(NamedTuple):
    """One measure of one kind of module over the layers.

    Attributes:
        run: whose it is.
        kind: the kind of module.
        values: by layer.
        random: the same measure of random matrices of the same shapes; empty where there is none.
    """

    run: str
    kind: str
    values: dict[int, float]
    random: dict[int, float]

    @property
    def mean(self) -> float:
        """Over the layers."""
        return sum(self.values.values()) / len(self.values)

    @property
    def random_mean(self) -> float | None:
        """Over the layers, of random matrices."""
        return sum(self.random.values()) / len(self.random) if self.random else None


def similarity_lines(tree: Mapping[str, Any], measure: str) -> list[Line]:
    """The mean over pairs of experts, where there are pairs."""
    return [
        line
        for run in tree["runs"]
        for line in _lines(
            run["name"],
            [
                (entry, entry["similarity"].get(measure), entry["random"].get(measure))
                for entry in run["modules"].values()
            ],
        )
    ]


def specialisation_lines(tree: Mapping[str, Any]) -> list[Line]:
    """How much the experts say of the tasks."""
    return [
        line
        for run in tree["runs"]
        for line in _lines(run["name"], [(entry, entry["score"], None) for entry in run["specialisation"].values()])
    ]


def subspace_lines(tree: Mapping[str, Any], measure: str) -> list[Line]:
    """How much two runs' A have in common, for every pair: "overlap", "learned" or "start"."""
    return [
        line
        for pair in tree["subspaces"]
        for line in _lines(
            f"{pair['a']} & {pair['b']}",
            [(entry, entry[measure], entry["random"]) for entry in pair["modules"].values()],
        )
    ]


def moved_lines(tree: Mapping[str, Any]) -> list[Line]:
    """How far training moved A, as a part of its length at the start."""
    return [
        line
        for run in tree["runs"]
        for line in _lines(run["name"], [(entry, entry["moved"], None) for entry in run["modules"].values()])
    ]


def _lines(run: str, found: list[tuple[Mapping[str, Any], float | None, float | None]]) -> Iterator[Line]:
    kinds: dict[str, Line] = {}
    for entry, value, random in found:
        if value is not None:
            line = kinds.setdefault(entry["module"], Line(run, entry["module"], {}, {}))
            line.values[entry["layer"]] = value
            if random is not None:
                line.random[entry["layer"]] = random
    yield from kinds.values()
