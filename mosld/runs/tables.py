"""Two tables: the results at the end of a run, and the experts that each token of an answer took.

The results are accuracies in per cent with their standard error (or interval), next to the untrained model's.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mosld.common.errors import UserError
from mosld.common.files import JsonObject
from mosld.data.leaks import leak_notes
from mosld.data.subjects import CATEGORY
from mosld.runs.power import accuracy_text, independent_note

# The experts that a token took, with their gates.
TakenExperts = Sequence[tuple[int, float]]
EXPERTS_PER_CELL = 3
TOKEN_CHARACTERS = 14
COLUMN_GAP = 2
# Lines of a summary beside its layers: head, rule, legend and the prompt.
SUMMARY_FRAME = 5
# Of one expert in a cell, such as 12:.25.
SHARE_CHARACTERS = 6
# From cold to warm, on dark and light terminals.
HEAT = ("blue", "cyan", "green", "yellow", "bold red")
VISIBLE = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})
LEGEND = "row: layer; column: token of the answer (·: space); cell: expert:gate, largest first (…: smaller ones)"
WHOLE = "row: layer; cell: expert:gate; the prompt decides, and all modules and tokens take the same"


def results_table(results: JsonObject) -> RenderableType:
    """A row per task and the average, and notes: the smallest difference that could be shown, leaked test items.

    A task with worked solutions also has rows with lm-evaluation-harness's scores; one with subjects has a row per
    category, and a second table by subject.
    """
    scores = results["scores"]
    base_scores = results.get("base_scores") or {}
    if not scores:
        return "nothing was scored: every task is for training only"
    table = _score_table("task", base_scores)
    for task, score in scores.items():
        base = base_scores.get(task)
        _add_row(table, task, score, base)
        for name in ("strict", "flexible"):
            other, base_other = _other(score, name), _other(base or {}, name)
            if other and (base_other or not base):
                _add_row(table, f"  {name}", other, base_other)
        for name, part in score.get("by_category", {}).items():
            _add_row(table, f"  {name}", part, base and base.get("by_category", {}).get(name))
    table.add_section()
    average = 100 * results["average"]
    base_average = 100 * (results.get("base_average") or 0)
    cells = [f"{average:.1f}"]
    if base_scores:
        cells = [f"{base_average:.1f}", *cells, f"{average - base_average:+.1f}"]
    table.add_row("average", "", *cells, style="bold")
    subjects = _subject_tables(scores, base_scores)
    shown = [part for score in [*scores.values(), *base_scores.values()] for part in _with_parts(score)]
    interval = (
        ", [95 % interval] where all or none are right" if any("[" in accuracy_text(one) for one in shown) else ""
    )
    notes: list[RenderableType] = [independent_note(scores), *subjects, *_leak_notes(results["data"])]
    return Group(f"{_title(results)}: accuracy ± s.e. in %{interval}", table, *notes)


def _with_parts(score: JsonObject) -> Iterator[JsonObject]:
    yield score
    yield from (other for name in ("strict", "flexible") if (other := _other(score, name)))
    for parts in ("by_category", "by_subject"):
        yield from score.get(parts, {}).values()


def _title(results: JsonObject) -> str:
    shots = f", {results['shots']}-shot" if results.get("shots") else ""
    source = results["data"]["source"]
    return f"{results['method']} on {results['model']}, {source} data, prompt {results['prompt']}{shots}"


def _score_table(first_column: str, base_scores: JsonObject) -> Table:
    table = Table()
    table.add_column(first_column, no_wrap=True)
    for column in ("items", "untrained", "accuracy", "gain") if base_scores else ("items", "accuracy"):
        table.add_column(column, justify="right")
    return table


def _add_row(table: Table, name: str, score: JsonObject, base: JsonObject | None) -> None:
    if base:
        gain = 100 * (score["accuracy"] - base["accuracy"])
        table.add_row(name, str(score["n"]), accuracy_text(base), accuracy_text(score), f"{gain:+.1f}")
    else:
        table.add_row(name, str(score["n"]), accuracy_text(score))


def _other(score: JsonObject, name: str) -> JsonObject | None:
    """The score that lm-evaluation-harness would give, `strict` or `flexible`, where it is whole."""
    error = f"stderr_{name}"
    return {"accuracy": score[name], "stderr": score[error], "n": score["n"]} if {name, error} <= score.keys() else None


def _subject_tables(scores: JsonObject, base_scores: JsonObject) -> Iterator[RenderableType]:
    """A table of the subjects of each task that has some, in the order of their categories, and its note."""
    for task, score in scores.items():
        if "by_subject" not in score:
            continue
        table = _score_table(f"{task} by subject", base_scores)
        base = base_scores.get(task, {}).get("by_subject", {})
        for category in score.get("by_category", {}):
            table.add_section()
            for name in (name for name in score["by_subject"] if CATEGORY.get(name) == category):
                _add_row(table, name, score["by_subject"][name], base.get(name))
        yield table
        yield independent_note(score["by_subject"], average=False)


def _leak_notes(data: JsonObject) -> Iterator[str]:
    notes = leak_notes(data)
    if notes:
        hint = " (data.drop_leaks=true leaves such rows out)" if any((data.get("leaks") or {}).values()) else ""
        yield f"{'; '.join(notes)}{hint}"


def experts_summary(experts: Mapping[str, Sequence[TakenExperts]], width: int, height: int | None) -> tuple[Table, str]:
    """The experts with the largest mean gates over an answer: a row for each layer, a column for each kind of module.

    Args:
        experts: by module, the experts of each token.
        width: characters in a line.
        height: lines for the table; of more layers every second, third ... is shown. None: all.

    Returns:
        The table, and its legend.
    """
    kinds = _by_kind(experts, None)
    layers = list(dict.fromkeys(layer for rows in kinds.values() for layer in rows))
    every = 1 if height is None else math.ceil(len(layers) / max(1, height - SUMMARY_FRAME))
    available = (width - max(map(cell_len, ("layer", *layers)))) // len(kinds) - COLUMN_GAP
    count = min(EXPERTS_PER_CELL, max(1, (available + 1) // (SHARE_CHARACTERS + 1)))
    table = _plain_table("layer", kinds)
    for layer in layers[::every]:
        table.add_row(layer, *(_heated(_mean_gates(rows.get(layer, ())), count) for rows in kinds.values()))
    left_out = f"one of {every} layers; " if every > 1 else ""
    return table, f"{left_out}expert:mean gate over the answer, largest first; /experts LAYER shows each token"


def _mean_gates(columns: Sequence[TakenExperts]) -> list[tuple[int, float]]:
    """The experts of a module with their mean gates over all tokens, largest first."""
    sums: dict[int, float] = {}
    for expert, gate in (pair for taken in columns for pair in taken):
        sums[expert] = sums.get(expert, 0.0) + gate
    return sorted(((expert, total / len(columns)) for expert, total in sums.items()), key=lambda pair: -pair[1])


def _heated(shares: TakenExperts, count: int, names: Sequence[str] | None = None) -> Text:
    """The first `count` experts with their shares, the larger the warmer."""
    text = Text(" ").join(
        Text(
            f"{names[expert] if names else expert}:{f'{share:.2f}'.removeprefix('0')}",
            HEAT[min(int(share * len(HEAT)), len(HEAT) - 1)],
        )
        for expert, share in shares[:count]
    )
    return text.append(" …") if len(shares) > count and count == EXPERTS_PER_CELL else text


def _plain_table(first: str, heads: Iterable[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, COLUMN_GAP - 1, 0, 0), show_edge=False)
    table.add_column(first, justify="right", no_wrap=True)
    for head in heads:
        table.add_column(Text(head), no_wrap=True)
    return table


def experts_tables(
    experts: Mapping[str, Sequence[TakenExperts]],
    tokens: Sequence[str],
    names: Sequence[str] | None = None,
    selection: Sequence[str] = (),
    width: int = 100,
) -> list[Table]:
    """One table per kind of module: a row for each layer, a column for each token; wide ones are cut into several.

    Args:
        experts: by module, the experts of each token; or of the answer as a whole.
        tokens: the text of each token.
        names: names of the experts, where one is chosen for the whole answer.
        selection: the layer or the kind of module, or both, to be shown (default: all).
        width: characters in a line.

    Raises:
        UserError: an unknown layer or module.
    """
    heads = ["whole answer"] if names else [_visible(token) for token in tokens]
    tables = []
    for kind, layers in _select(_by_kind(experts, "layer" if names else None), selection).items():
        cells = {
            layer: [_heated(taken, EXPERTS_PER_CELL, names) for taken in columns] for layer, columns in layers.items()
        }
        widths = [
            max(cell_len(head), *(text.cell_len for text in column))
            for head, *column in zip(heads, *cells.values(), strict=True)
        ]
        available = width - max(map(cell_len, (kind, *cells))) - COLUMN_GAP
        for columns in _fitting_columns(widths, available):
            table = _plain_table(kind, heads[columns])
            for layer, row in cells.items():
                table.add_row(layer, *row[columns])
            tables.append(table)
    return tables


def _by_kind(
    experts: Mapping[str, Sequence[TakenExperts]], kind: str | None
) -> dict[str, dict[str, Sequence[TakenExperts]]]:
    """{kind of module: {layer: experts}}; `kind` stands for every kind if all modules of a layer take the same."""
    kinds: dict[str, dict[str, Sequence[TakenExperts]]] = {}
    for module, columns in experts.items():
        number = re.search(r"\.(\d+)\.", module)
        kinds.setdefault(kind or module.rpartition(".")[2], {})[number[1] if number else module] = columns
    return kinds


def _select(
    kinds: dict[str, dict[str, Sequence[TakenExperts]]], selection: Sequence[str]
) -> dict[str, dict[str, Sequence[TakenExperts]]]:
    layers = list(dict.fromkeys(layer for rows in kinds.values() for layer in rows))
    for word in selection:
        if word not in kinds and word not in layers:
            span = f"{layers[0]} to {layers[-1]}" if len(layers) > 1 else layers[0]
            raise UserError(f"{word}: no such layer or module; layers: {span}; modules: {', '.join(kinds)}.")
    selected_kinds = [word for word in selection if word in kinds] or list(kinds)
    selected_layers = [word for word in selection if word in layers] or layers
    return {
        kind: {layer: kinds[kind][layer] for layer in selected_layers if layer in kinds[kind]}
        for kind in selected_kinds
    }


def _fitting_columns(widths: Sequence[int], available: int) -> Iterator[slice]:
    """Ranges of columns that fit into the available characters."""
    start = used = 0
    for i, width in enumerate(widths):
        if used and used + width + COLUMN_GAP > available:
            yield slice(start, i)
            start = i
            used = 0
        used += width + COLUMN_GAP
    if widths:
        yield slice(start, len(widths))


def _visible(token: str) -> str:
    text = "".join(char if char.isprintable() else "\ufffd" for char in token.translate(VISIBLE))
    return text if cell_len(text) <= TOKEN_CHARACTERS else set_cell_size(text, TOKEN_CHARACTERS - 1) + "…"
