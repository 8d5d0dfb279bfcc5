"""The table at the end of a run: accuracy in per cent with its standard error, beside the untrained model's."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from mosld.data import leak_notes
from mosld.data.subjects import CATEGORY

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
