"""The numbers as Markdown: means over the layers, then layer by layer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mosld.analysis.metrics import MEASURES

# PART: The numbers as lines over the layers, which figures draw and the table averages.


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


# PART: The numbers as Markdown: means over the layers, then layer by layer.


OVERLAPS = {"overlap": "as saved", "start": "at the start", "learned": "of what training added"}

HEAD = """# What the adapters hold

{runs}

How each number is defined: docs/how-to/inspecting.md. In brackets: the same measure of random matrices of the same shapes.
"""


def markdown(tree: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """The whole file."""
    runs = "\n".join(
        f"* {run['name']}: {run['method']} on {run['model']}, data {run['data']}, seed {run['seed']} (`{run['path']}`)"
        for run in tree["runs"]
    )
    parts = [HEAD.format(runs=runs), *(f"{note}\n" for note in notes)]
    parts += [*_summary(tree), *_subspaces(tree), *_divergences(tree), *_by_layer(tree)]
    return "\n".join(parts)


def _summary(tree: Mapping[str, Any]) -> Iterable[str]:
    columns = {name: {line[:2]: line for line in similarity_lines(tree, name)} for name in MEASURES}
    columns["specialisation"] = {line[:2]: line for line in specialisation_lines(tree)}
    names = [run["name"] for run in tree["runs"]]
    found = dict.fromkeys(key for lines in columns.values() for key in lines)
    rows = sorted(found, key=lambda key: names.index(key[0]))
    if rows:
        yield "## Experts, mean over layers\n"
        head = ["run", "module", *MEASURES, "specialisation"]
        yield _table(head, [[*key, *(_mean(lines.get(key)) for lines in columns.values())] for key in rows])


def _subspaces(tree: Mapping[str, Any]) -> Iterable[str]:
    moved = moved_lines(tree)
    if moved:
        yield "## How far training moved A, as a part of its length at the start, mean over layers\n"
        yield _table(["run", "module", "moved"], [[line.run, line.kind, _mean(line)] for line in moved])
    columns = {name: {line[:2]: line for line in subspace_lines(tree, name)} for name in OVERLAPS}
    if columns["overlap"]:
        yield "## Overlap of what two A's read, mean over layers\n"
        rows = [[*key, *(_mean(lines.get(key)) for lines in columns.values())] for key in columns["overlap"]]
        yield _table(["A of", "module", *OVERLAPS.values()], rows)


def _divergences(tree: Mapping[str, Any]) -> Iterable[str]:
    for run in tree["runs"]:
        if run["divergence"]:
            tasks, bits = run["divergence"]["tasks"], run["divergence"]["bits"]
            yield f"## {run['name']}: Jensen-Shannon divergence of two tasks' expert use, bits ({run['use_of']})\n"
            yield _table(["", *tasks], [[task, *map(_number, row)] for task, row in zip(tasks, bits, strict=True)])


def _by_layer(tree: Mapping[str, Any]) -> Iterable[str]:
    for name in MEASURES:
        yield from _layers(name, similarity_lines(tree, name))
    yield from _layers("specialisation", specialisation_lines(tree))
    for name, title in OVERLAPS.items():
        yield from _layers(f"overlap of A {title}", subspace_lines(tree, name))


def _layers(title: str, lines: Sequence[Line]) -> Iterable[str]:
    if lines:
        layers = sorted({layer for line in lines for layer in line.values})
        yield f"## By layer: {title}\n"
        head = ["layer", *(f"{line.run}, {line.kind}" for line in lines)]
        yield _table(head, [[str(layer), *(_number(line.values.get(layer)) for line in lines)] for layer in layers])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def _mean(line: Line | None) -> str:
    if line is None:
        return "-"
    random = line.random_mean
    return _number(line.mean) + ("" if random is None else f" ({_number(random)})")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.4f}"  # specialisation is often below .01
