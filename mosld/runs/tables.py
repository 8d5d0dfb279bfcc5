"""The table at the end of a run: accuracy in per cent with its standard error, beside the untrained model's."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mosld.common.errors import UserError
from mosld.data.dataset import leak_notes
from mosld.data.subjects import CATEGORY

# PART: The table at the end of a run: accuracy in per cent with its standard error, beside the untrained model's.


Score = Mapping[str, Any]


def results_table(results: Mapping[str, Any]) -> RenderableType:
    """A row per task and their average, below it what a reader should know of the test items.

    Of a task with subjects there is a row per category, and a table of its own by subject.
    """
    scores, base = results["scores"], results.get("base_scores") or {}
    if not scores:
        return "nothing was scored: every task is trained on alone"
    table = _table("task", base)
    for task, score in scores.items():
        before = base.get(task)
        _add(table, task, score, before)
        for name, part in score.get("by_category", {}).items():
            _add(table, f"  {name}", part, before and before["by_category"][name])
    table.add_section()
    after, first = 100 * results["average"], 100 * (results.get("base_average") or 0)
    cells = [f"{first:.1f}", f"{after:.1f}", f"{after - first:+.1f}"] if base else [f"{after:.1f}"]
    table.add_row("average", "", *cells, style="bold")
    return Group(f"{_title(results)}: accuracy ± s.e. in %", table, *_subjects(scores, base), *_foot(results["data"]))


def _title(results: Mapping[str, Any]) -> str:
    shots = f", {results['shots']}-shot" if results.get("shots") else ""
    source = results["data"]["source"]
    return f"{results['method']} on {results['model']}, {source} data, prompt {results['prompt']}{shots}"


def _table(first: str, base: Mapping[str, Score]) -> Table:
    table = Table()
    table.add_column(first)
    for column in ("items", *(["untrained"] if base else []), "accuracy", *(["gain"] if base else [])):
        table.add_column(column, justify="right")
    return table


def _add(table: Table, name: str, score: Score, before: Score | None) -> None:
    if before:
        gain = 100 * (score["accuracy"] - before["accuracy"])
        table.add_row(name, str(score["n"]), _percent(before), _percent(score), f"{gain:+.1f}")
    else:
        table.add_row(name, str(score["n"]), _percent(score))


def _subjects(scores: Mapping[str, Score], base: Mapping[str, Score]) -> Iterator[Table]:
    """By task that has subjects, a table of them in the order of their categories."""
    for task, score in scores.items():
        if "by_subject" in score:
            table, before = _table(f"{task} by subject", base), base.get(task, {}).get("by_subject", {})
            for category in score["by_category"]:
                table.add_section()
                for name in (name for name in score["by_subject"] if CATEGORY[name] == category):
                    _add(table, name, score["by_subject"][name], before.get(name))
            yield table


def _foot(data: Mapping[str, Any]) -> Iterator[str]:
    notes = leak_notes(data)
    if notes:
        hint = " (data.drop_leaks=true leaves such rows out)" if any((data.get("leaks") or {}).values()) else ""
        yield f"{'; '.join(notes)}{hint}"


def _percent(score: Score) -> str:
    return f"{100 * score['accuracy']:.1f} ± {100 * score['stderr']:.1f}"


# PART: The experts of an answer as tables: a row for each layer, a column for each token.


Taken = Sequence[tuple[int, float]]
SHOWN, WIDEST, GAP = 3, 14, 2  # experts in a cell, characters of a token, spaces between columns
VISIBLE = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})
LEGEND = "row: layer; column: token of the answer (·: space); cell: expert:gate, largest first (…: smaller ones)"
WHOLE = "row: layer; cell: expert:gate; the prompt decides, and all modules and tokens take the same"


def experts_tables(
    experts: Mapping[str, Sequence[Taken]],
    tokens: Sequence[str],
    names: Sequence[str] | None = None,
    wanted: Sequence[str] = (),
    width: int = 100,
) -> list[Table]:
    """One table for each kind of module, cut into several where the answer is wider than `width`.

    Args:
        experts: by module, the experts of each token; or of the answer as a whole.
        tokens: the text of each token.
        names: names of the experts, where one is chosen for the whole answer.
        wanted: the layer or the kind of module, or both, to be shown (default: all).
        width: characters in a line.

    Raises:
        UserError: an unknown layer or module.
    """
    rows = _rows(experts, wanted, "layer" if names else None)
    heads = ["whole answer"] if names else [_visible(token) for token in tokens]
    tables = []
    for kind, layers in rows.items():
        cells = {layer: [_cell(taken, names) for taken in columns] for layer, columns in layers.items()}
        widths = [
            max(cell_len(text) for text in (head, *(row[i] for row in cells.values()))) for i, head in enumerate(heads)
        ]
        for start, end in _blocks(widths, width - max(map(cell_len, (kind, *cells))) - GAP):
            tables.append(
                _experts_table(kind, heads[start:end], {layer: row[start:end] for layer, row in cells.items()})
            )
    return tables


def _rows(
    experts: Mapping[str, Sequence[Taken]], wanted: Sequence[str], name: str | None
) -> dict[str, dict[str, Sequence[Taken]]]:
    """{kind of module: {layer: experts}} of what is wanted; `name` stands for every kind where layers decide."""
    found: dict[str, dict[str, Sequence[Taken]]] = {}
    for module, columns in experts.items():
        number = re.search(r"\.(\d+)\.", module)
        found.setdefault(name or module.rpartition(".")[2], {})[number[1] if number else module] = columns
    layers = list(dict.fromkeys(layer for kind in found.values() for layer in kind))
    for word in wanted:
        if word not in found and word not in layers:
            span = f"{layers[0]} to {layers[-1]}" if len(layers) > 1 else layers[0]
            raise UserError(f"{word}: no such layer or module; layers: {span}; modules: {', '.join(found)}.")
    kinds = [word for word in wanted if word in found] or list(found)
    chosen = [word for word in wanted if word in layers] or layers
    return {kind: {layer: found[kind][layer] for layer in chosen if layer in found[kind]} for kind in kinds}


def _blocks(widths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Ranges of columns that fit into `room` beside the column of the layers."""
    start, used = 0, 0
    for i, width in enumerate(widths):
        if used and used + width + GAP > room:
            yield start, i
            start, used = i, 0
        used += width + GAP
    if widths:
        yield start, len(widths)


def _experts_table(kind: str, heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), show_edge=False)
    table.add_column(kind, justify="right", no_wrap=True)
    for head in heads:
        table.add_column(Text(head), no_wrap=True)
    for layer, cells in rows.items():
        table.add_row(layer, *map(Text, cells))
    return table


def _cell(taken: Taken, names: Sequence[str] | None) -> str:
    shown = [f"{names[expert] if names else expert}:{_gate(gate)}" for expert, gate in taken[:SHOWN]]
    return " ".join(shown) + (" …" if len(taken) > SHOWN else "")


def _gate(gate: float) -> str:
    return f"{gate:.2f}".removeprefix("0")


def _visible(token: str) -> str:
    text = "".join(c if c.isprintable() else "\ufffd" for c in token.translate(VISIBLE))
    return text if cell_len(text) <= WIDEST else set_cell_size(text, WIDEST - 1) + "…"
