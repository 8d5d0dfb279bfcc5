"""The numbers of an inspection as series over the layers, and as Markdown: means, then layer by layer."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from mosld.analysis.analyze import Inspection, Module
from mosld.analysis.metrics import MEASURES

OverlapMeasure = Literal["overlap", "start", "learned"]
OVERLAPS: dict[OverlapMeasure, str] = {
    "overlap": "as saved", "start": "at the start", "learned": "of what training added",
}  # fmt: skip
HEAD = """# What the adapters hold

{runs}

Definitions of the numbers: docs/how-to/inspecting.md. In brackets: the same measure of random matrices of equal shapes.
"""


class Series(NamedTuple):
    """One measure of one kind of module over the layers.

    Attributes:
        run: its name, or those of two runs.
        values: by layer.
        random: the same measure of random matrices of the same shapes, by layer; empty if there is none.
    """

    run: str
    module: str
    values: dict[int, float]
    random: dict[int, float]

    @property
    def text(self) -> str:
        """The mean over the layers, and in brackets that of random matrices."""
        mean = _number(sum(self.values.values()) / len(self.values))
        return f"{mean} ({_number(sum(self.random.values()) / len(self.random))})" if self.random else mean


def similarity_series(tree: Inspection, measure: str) -> list[Series]:
    """The mean over pairs of experts, where there are pairs."""
    return _series(
        (run["name"], module, module["similarity"].get(measure), module["random"].get(measure))
        for run in tree["runs"]
        for module in run["modules"].values()
    )


def specialisation_series(tree: Inspection) -> list[Series]:
    """How much the experts say about the tasks."""
    return _series(
        (run["name"], router, router["score"], None)
        for run in tree["runs"]
        for router in run["specialisation"].values()
    )


def subspace_series(tree: Inspection, measure: OverlapMeasure) -> list[Series]:
    """How much the A's of two runs have in common, for every pair."""
    return _series(
        (f"{pair['a']} & {pair['b']}", module, module[measure], module["random"])
        for pair in tree["subspaces"]
        for module in pair["modules"].values()
    )


def moved_series(tree: Inspection) -> list[Series]:
    """How far training moved A, as a share of its initial norm."""
    return _series(
        (run["name"], module, module["moved"], None) for run in tree["runs"] for module in run["modules"].values()
    )


def _series(numbers: Iterable[tuple[str, Module, float | None, float | None]]) -> list[Series]:
    """A series for each run and kind of module out of (run, module, value, random value)."""
    by_key: dict[tuple[str, str], Series] = {}
    for run, module, value, random in numbers:
        if value is not None:
            series = by_key.setdefault((run, module["module"]), Series(run, module["module"], {}, {}))
            series.values[module["layer"]] = value
            if random is not None:
                series.random[module["layer"]] = random
    return list(by_key.values())


def markdown(tree: Inspection, notes: Sequence[str] = ()) -> str:
    """inspect.md."""
    runs = "\n".join(
        f"* {run['name']}: {run['method']} on {run['model']}, data {run['data']}, seed {run['seed']} (`{run['path']}`)"
        for run in tree["runs"]
    )
    parts = [HEAD.format(runs=runs), *(f"{note}\n" for note in notes)]
    parts += [*_summary(tree), *_subspaces(tree), *_divergences(tree), *_by_layer(tree)]
    return "\n".join(parts)


def _summary(tree: Inspection) -> Iterator[str]:
    columns = {measure: similarity_series(tree, measure) for measure in MEASURES}
    columns["specialisation"] = specialisation_series(tree)
    names = [run["name"] for run in tree["runs"]]
    rows = sorted(_mean_rows(columns.values()), key=lambda row: names.index(row[0]))
    if rows:
        yield "## Experts, mean over layers\n"
        yield _table(["run", "module", *columns], rows)


def _subspaces(tree: Inspection) -> Iterator[str]:
    moved = moved_series(tree)
    if moved:
        yield "## How far training moved A, as a part of its length at the start, mean over layers\n"
        yield _table(["run", "module", "moved"], _mean_rows([moved]))
    if tree["subspaces"]:
        yield "## Overlap of what two A's read, mean over layers\n"
        rows = _mean_rows(subspace_series(tree, measure) for measure in OVERLAPS)
        yield _table(["A of", "module", *OVERLAPS.values()], rows)


def _mean_rows(columns: Iterable[Sequence[Series]]) -> list[list[str]]:
    """A row for each run and kind of module: means over layers, a column for each measure."""
    by_key = [{(series.run, series.module): series.text for series in column} for column in columns]
    keys = dict.fromkeys(key for column in by_key for key in column)
    return [[*key, *(column.get(key, "-") for column in by_key)] for key in keys]


def _divergences(tree: Inspection) -> Iterator[str]:
    for run in tree["runs"]:
        if run["divergence"]:
            tasks, bits = run["divergence"]["tasks"], run["divergence"]["bits"]
            yield f"## {run['name']}: Jensen-Shannon divergence of two tasks' expert use, bits ({run['use_of']})\n"
            yield _table(["", *tasks], [[task, *map(_number, row)] for task, row in zip(tasks, bits, strict=True)])


def _by_layer(tree: Inspection) -> Iterator[str]:
    tables = {measure: similarity_series(tree, measure) for measure in MEASURES}
    tables["specialisation"] = specialisation_series(tree)
    tables |= {f"overlap of A {title}": subspace_series(tree, measure) for measure, title in OVERLAPS.items()}
    for title, columns in tables.items():
        layers = sorted({layer for series in columns for layer in series.values})
        if layers:
            yield f"## By layer: {title}\n"
            head = ["layer", *(f"{series.run}, {series.module}" for series in columns)]
            rows = [[str(layer), *(_number(series.values.get(layer)) for series in columns)] for layer in layers]
            yield _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    # Specialisation is often below .01.
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.4f}"
