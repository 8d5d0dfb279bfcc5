"""Score several runs on the same rows and compare them item by item: one table of paired differences."""

from collections.abc import Sequence

from rich.table import Table

from mosld.common.errors import UserError
from mosld.recipes.evaluate import EvaluationResult, evaluate_run
from mosld.recipes.request import EvaluationRequest
from mosld.reporting.blocks import Block, Row
from mosld.reporting.compare import Comparer, Comparison, Predictions
from mosld.reporting.run import Run
from mosld.reporting.tables import AVERAGE
from mosld.runs.console import Console

RESAMPLES = 10_000
# Every row has one run, whatever its seed: the runs are paired by item.
ONE_SEED = 0


def shared_tasks(requests: Sequence[EvaluationRequest]) -> list[str]:
    """The tasks of which all runs are asked the same items.

    Raises:
        UserError: there is none.
    """
    settings = [(one.config.evaluation.limit, one.config.evaluation.shots) for one in requests]
    rows = [one.dataset.fingerprints for one in requests]
    shared = [task for task, digest in rows[0].items() if all(other.get(task) == digest for other in rows)]
    if not shared or len(set(settings)) > 1:
        listed = "; ".join(f"{one.run.path}: {', '.join(one.dataset.tasks)}" for one in requests)
        raise UserError(
            f"the runs would not be asked the same items ({listed}); name their rows, as in data=mixture "
            "source=bundled evaluation.limit=null evaluation.shots=0."
        )
    return shared


def compare_runs(requests: Sequence[EvaluationRequest]) -> list[EvaluationResult]:
    """Score every run, then show how each differs from the first.

    Raises:
        UserError: they have no task with the same items.
    """
    tasks = shared_tasks(requests)
    results = [evaluate_run(one) for one in requests]
    console = Console()
    console.show(differences_table(compare([one.run.path.resolve().name for one in requests], results, tasks)))
    left_out = sorted({task for one in requests for task in one.dataset.tasks} - set(tasks))
    if left_out:
        console.say(f"left out, because the runs were not asked the same items: {', '.join(left_out)}")
    if len(prompts := {str(one.config.prompt) for one in requests}) > 1:
        console.say(f"the runs were asked in different forms: prompt={', '.join(sorted(prompts))}")
    return results


def compare(names: Sequence[str], results: Sequence[EvaluationResult], tasks: list[str]) -> list[Comparison]:
    """Each evaluation against the first, by task and on average, with the report's bootstrap over items."""
    unique = names if len(set(names)) == len(names) else [f"{name} ({place + 1})" for place, name in enumerate(names)]
    runs = [Run(one.path, one.results) for one in results]  # type: ignore[arg-type]
    rows = [
        Row({"name": f"({name})"}, {task: {ONE_SEED: run} for task in tasks})
        for name, run in zip(unique, runs, strict=True)
    ]
    block = Block("", [], tasks, rows, single_tasks=False)
    return Comparer(Predictions(), RESAMPLES).against(block, rows[1:], rows[0])


def differences_table(comparisons: Sequence[Comparison]) -> Table:
    """A line for each comparison."""
    table = Table(
        title="Differences from the first run in points of accuracy, paired by item",
        caption=f"Interval and p: bootstrap over the items ({RESAMPLES:,} resamples), which says nothing about other "
        "seeds; Holm: p corrected over the table.",
    )
    for column in ("run", "task", "first", "this", "difference", "95 % interval", "p", "Holm"):
        left = column in ("run", "task")
        table.add_column(
            column, justify="left" if left else "right", overflow="fold", no_wrap=column == "95 % interval"
        )
    for one in comparisons:
        interval = f"{100 * one.interval[0]:+.1f} to {100 * one.interval[1]:+.1f}" if one.interval else "-"
        tests = (one.p.get("items"), one.corrected["items"])
        values = ["-" if value is None else f"{value:.3f}" for value in tests]
        first, this = (f"{100 * side[ONE_SEED]:.1f}" for side in (one.there, one.here))
        table.add_row(one.name, one.task, first, this, f"{100 * one.difference:+.1f}", interval, *values)
        if one.task == AVERAGE:
            table.add_section()
    return table
