"""The work of `mosld.report`: collect runs, sort them into blocks, make tables and figures, write and print them."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from mosld.reporting.blocks import make_blocks
from mosld.reporting.collect import collect
from mosld.reporting.compare import Comparer, Predictions
from mosld.reporting.paper import paper_numbers
from mosld.reporting.run import Run
from mosld.reporting.sections import draw_figures, make_sections
from mosld.reporting.write import PAGE, check_output, print_report, write_report
from mosld.runs.results import git_hash


def report_runs(
    directories: Sequence[str],
    output: Path,
    against: str | None,
    resamples: int,
    paper: bool,
    figures: bool,
    command: str,
) -> Path:
    """Write and print a report of all finished runs below some directories.

    Args:
        directories: where the runs are, at any depth.
        output: the directory to write; an earlier report there is replaced.
        against: the method or row that the others are compared with; None: mosld, or else the best on average.
        resamples: of the bootstrap over items; 0: predictions are not read.
        command: what was typed, for the head of the pages.

    Returns:
        The path of report.html.

    Raises:
        UserError: there is no finished run, no row called `against`, or `output` cannot be written.
    """
    check_output(output)
    collected = collect(directories)
    blocks = make_blocks(collected)
    comparer = Comparer(Predictions(), resamples)
    sections = make_sections(blocks, comparer, against, paper_numbers() if paper else None)
    if figures:
        draw_figures(sections, comparer.predictions)
    problems = sorted(comparer.predictions.problems.items())
    left_out = [(str(path), why) for path, why in collected.left_out]
    left_out += [(str(path), f"left out of tests over items: {why}") for path, why in problems]
    write_report(output, _head(collected.runs, command), sections, left_out)
    print_report(sections, left_out)
    return output / PAGE


def _head(runs: Sequence[Run], command: str) -> list[str]:
    """When and by what the report was made, and what its runs are: one sentence each."""
    # https://reproducible-builds.org/specs/source-date-epoch: a fixed date for pages that are the same each time.
    made = datetime.fromtimestamp(float(os.environ.get("SOURCE_DATE_EPOCH", time.time())), UTC)
    commit = git_hash()
    data = Counter(f"{run.data} ({run.source}, {run.fingerprint})" for run in runs)
    commits = sorted({str(run.results["git_hash"])[:12] for run in runs if run.results.get("git_hash")})
    return [
        f"Made {made:%Y-%m-%d %H:%M} UTC by mosld {version('mosld')}"
        f"{f', commit {commit[:12]}' if commit else ''}: {command}",
        "Runs: " + ", ".join(f"{count:,} on {name}" for name, count in sorted(data.items())),
        *([f"The runs were made by commit{'s' * (len(commits) > 1)} {', '.join(commits)}"] if commits else []),
    ]
