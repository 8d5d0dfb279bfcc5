"""The tables and figures of each block, in the order of the report. No file is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from mosld.common.errors import UserError, nearest
from mosld.reporting.blocks import Block, Row
from mosld.reporting.compare import (
    SIGNIFICANCE_LEVEL,
    Comparer,
    Predictions,
    comparison_table,
    gains_power_note,
    scores_power_note,
    significance_marks,
)
from mosld.reporting.paper import FACTS, TITLE, PaperNumbers, paper_tables
from mosld.reporting.table import Table
from mosld.reporting.tables import cost_table, gains_table, scores_table

if TYPE_CHECKING:
    from mosld.reporting.figures import FigurePlan
    from mosld.reporting.style import RenderedFigure

DEFAULT_REFERENCE = "mosld"
# Of a section: a sweep over everything would give hundreds.
MAX_FIGURES = 14


@dataclass
class Section:
    """Tables and figures under one heading.

    Attributes:
        facts: what holds for all of it, one sentence each.
        tables: in the order of the report.
        block: what the figures are drawn of; None: no figures.
        undrawn: number of figures above the limit.
    """

    title: str
    facts: Sequence[str]
    tables: list[Table]
    block: Block | None = None
    figures: list["RenderedFigure"] = field(default_factory=list)
    undrawn: int = 0

    @property
    def note(self) -> str | None:
        """A sentence about figures that were not drawn."""
        return f"{self.undrawn} more figures are not drawn; a report of fewer runs has them." if self.undrawn else None


def make_sections(
    blocks: Sequence[Block], comparer: Comparer, against: str | None, paper: PaperNumbers | None
) -> list[Section]:
    """Every block with its tables, and the paper's tables where they are asked for.

    Args:
        against: the method or row that the others are compared with; None: mosld, or else the best on average.
        paper: the paper's numbers, if they are to be shown.

    Raises:
        UserError: no row is called `against`.
    """
    names = {name for block in blocks for row in block.rows for name in (row.name, row.run.method)}
    if against and against not in names:
        raise UserError(f"--against {against}: no row has this name; {nearest(against, names)}")
    singles = [block for block in blocks if block.single_tasks]
    sections = [
        Section(block.title, block.facts, list(_tables(block, singles, comparer, against)), block) for block in blocks
    ]
    sections += [Section(TITLE, FACTS, paper_tables(blocks, paper))] if paper else []
    for section in sections:
        section.tables = [table.without_empty_columns() for table in section.tables]
    return sections


def _tables(block: Block, singles: Sequence[Block], comparer: Comparer, against: str | None) -> Iterator[Table]:
    reference = _reference_row(block, against)
    comparisons = comparer.against(block, [row for row in block.rows if row is not reference], reference)
    marks = significance_marks(comparisons)
    power_note = scores_power_note(block, comparisons)
    yield _with_star_note(
        _with_note(scores_table(block, marks, comparer.winners(block)), power_note), marks, reference.name
    )
    if not block.single_tasks and not block.run.trained_on:
        yield from _gains(block, singles, comparer, equal_steps=False)
        yield from _gains(block, singles, comparer, equal_steps=True)
    if comparisons:
        title = f"significance against {reference.name}, {block.title}"
        yield comparison_table(title, comparisons, block.facts, comparer.resamples)
    # The cost of training is in the section of the run, not of its evaluations.
    if not block.run.trained_on:
        yield cost_table(block)


def _gains(mixture: Block, singles: Sequence[Block], comparer: Comparer, equal_steps: bool) -> Iterator[Table]:
    """The mixture minus single tasks, and what its differences are worth, if there are runs for it."""
    comparisons = comparer.mixture_against_single(mixture, singles, equal_steps)
    marks = significance_marks(comparisons)
    if gains := gains_table(mixture, singles, marks, equal_steps):
        yield _with_star_note(_with_note(gains, gains_power_note(mixture, comparisons)), marks, "0")
        title = f"significance of {gains.title}"
        yield comparison_table(title, comparisons, mixture.facts, comparer.resamples)


def _reference_row(block: Block, against: str | None) -> Row:
    """The row that the others are compared with; if several have the name, the one with most runs."""
    name = against or DEFAULT_REFERENCE
    named = [row for row in block.rows if name in (row.name, row.run.method)]
    if named:
        return max(named, key=lambda row: (row.name == name, len(row.all_runs)))
    return max(block.rows, key=lambda row: _mean(row.averages(block.tasks)))


def _mean(by_seed: Mapping[int, float]) -> float:
    return sum(by_seed.values()) / len(by_seed) if by_seed else -1.0


def _with_note(table: Table, note: str | None) -> Table:
    return replace(table, notes=[*table.notes, f"{note}."]) if note else table


def _with_star_note(table: Table, marks: Mapping[tuple[str, str], str], reference: str) -> Table:
    level = f"p < {SIGNIFICANCE_LEVEL:g}, bootstrap over items, Holm's correction (see the table below)"
    return replace(table, notes=[*table.notes, f"* differs from {reference}: {level}."]) if marks else table


def draw_figures(sections: Sequence[Section], predictions: Predictions) -> None:
    """Add to each section the figures for which there are runs."""
    # They import matplotlib, which --no-figures does not need.
    from mosld.reporting import figures, figures_across

    drawn = [(section, section.block) for section in sections if section.block]
    for section, block in drawn:
        gains = [table for table in section.tables if table.title.startswith("mixture minus single")]
        plans: list[FigurePlan] = [
            *(partial(figures.gain_figure, table) for table in gains),
            partial(figures_across.subject_figure, block, predictions),
            partial(figures.weights_figure, block),
            partial(figures_across.loss_figure, block),
            *figures.setting_figures(block),
        ]
        section.figures = [figure for plan in plans[:MAX_FIGURES] if (figure := plan())]
        section.undrawn = len(plans[MAX_FIGURES:])
    for i, figure in figures_across.openorca_figures([block for _, block in drawn]):
        drawn[i][0].figures.append(figure)
