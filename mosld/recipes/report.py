"""The work of `mosld.report`: collect runs, sort them into blocks, make tables and figures, write and print them."""

from collections.abc import Sequence
from pathlib import Path

from mosld.reporting.blocks import make_blocks
from mosld.reporting.collect import collect
from mosld.reporting.compare import Comparer, Predictions
from mosld.reporting.paper import paper_numbers
from mosld.reporting.sections import draw_figures, make_sections
from mosld.reporting.write import PAGE, check_output, print_report, write_report


def report_runs(
    directories: Sequence[str], output: Path, against: str | None, resamples: int, paper: bool, figures: bool
) -> Path:
    """Write and print a report of all finished runs below some directories.

    Args:
        directories: where the runs are, at any depth.
        output: the directory to write; an earlier report there is replaced.
        against: the method or row that the others are compared with; None: mosld, or else the best on average.
        resamples: of the bootstrap over items; 0: predictions are not read.
        paper: whether to show the paper's numbers.
        figures: whether to draw figures.

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
    write_report(output, sections, left_out)
    print_report(sections, left_out)
    return output / PAGE
