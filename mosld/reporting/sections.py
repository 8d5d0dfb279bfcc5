"""The third stage: the tables and figures of each block, in the order of the report. Nothing is written yet."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mosld.common.errors import UserError, nearest
from mosld.reporting.blocks import Block, Row
from mosld.reporting.compare import LEVEL, Comparer, comparison_table, marks
from mosld.reporting.table import Table
from mosld.reporting.tables import cost_table, gains_table, paper_table, scores_table

if TYPE_CHECKING:
    from mosld.reporting.style import Drawn

USUAL = "mosld"  # what rows are compared with where it is there and nothing else is asked for
MOST_FIGURES = 14  # of a section: a sweep over everything would be hundreds


@dataclass
class Section:
    """What the report shows of one block; `undrawn` counts the figures that it has no room for."""

    block: Block
    tables: list[Table]
    figures: list["Drawn"] = field(default_factory=list)
    undrawn: int = 0

    @property
    def title(self) -> str:
        """The heading."""
        return self.block.title

    @property
    def note(self) -> str | None:
        """What to say of figures that were not drawn."""
        narrower = "more figures are not drawn; a report of fewer runs has them."
        return f"{self.undrawn} {narrower}" if self.undrawn else None


def make_sections(
    blocks: Sequence[Block], comparer: Comparer, against: str | None, paper: Mapping[str, Any] | None
) -> list[Section]:
    """Every block with its tables.

    Args:
        blocks: of one report.
        comparer: compares rows.
        against: the method or row that the others are compared with; None: mosld, or else the best on average.
        paper: the paper's numbers, where they are wanted.

    Raises:
        UserError: no row is called `against`.
    """
    known = {name for block in blocks for row in block.rows for name in (row.name, row.run.method)}
    if against and against not in known:
        raise UserError(f"--against {against}: no row has this name; {nearest(against, known)}")
    singles = [block for block in blocks if block.single]
    return [Section(block, list(_tables(block, singles, comparer, against, paper))) for block in blocks]


def _tables(
    block: Block, singles: Sequence[Block], comparer: Comparer, against: str | None, paper: Mapping[str, Any] | None
) -> Iterator[Table]:
    other = reference(block, against)
    found = comparer.against(block, [row for row in block.rows if row is not other], other)
    starred = marks(found)
    yield _with_star(scores_table(block, starred), bool(starred), other.name)
    if paper and (beside := paper_table(block, paper)):
        yield beside
    if not block.single and not block.run.trained_on:
        tests = comparer.mixture_against_single(block, singles)
        starred = marks(tests)
        gains = gains_table(block, singles, starred)
        if gains:
            yield _with_star(gains, bool(starred), "0")
            title = f"significance of mixture minus single, {block.title}"
            yield comparison_table(title, tests, block.facts, comparer.resamples)
    if found:
        title = f"significance against {other.name}, {block.title}"
        yield comparison_table(title, found, block.facts, comparer.resamples)
    if not block.run.trained_on:  # what training cost stands where it was trained
        yield cost_table(block)


def reference(block: Block, against: str | None) -> Row:
    """The row that the others of a block are compared with: of several by that name the one with most runs."""
    wanted = against or USUAL
    named = [row for row in block.rows if wanted in (row.name, row.run.method)]
    if named:
        return max(named, key=lambda row: (row.name == wanted, len(row.all_runs)))
    return max(block.rows, key=lambda row: _mean(row.averages(block.tasks)))


def _mean(by_seed: Mapping[int, float]) -> float:
    return sum(by_seed.values()) / len(by_seed) if by_seed else -1.0


def _with_star(table: Table, starred: bool, other: str) -> Table:
    star = f"* differs from {other}: p < {LEVEL:g}, bootstrap over items, Holm's correction (see the table below)."
    return replace(table, notes=[*table.notes, star]) if starred else table


def draw(sections: Sequence[Section], comparer: Comparer) -> None:
    """Add to each section the figures for which there are runs; imports matplotlib."""
    from mosld.reporting import figures
    from mosld.reporting import figures_across as across

    for section in sections:
        block = section.block
        gains = next((table for table in section.tables if table.title.startswith("mixture minus single")), None)
        plans: list[figures.Plan] = [
            *([partial(figures.gain_figure, gains)] if gains else []),
            partial(across.subject_figure, block, comparer.outcomes),
            partial(figures.price_figure, block),
            partial(across.loss_figure, block),
            *figures.setting_figures(block),
        ]
        section.figures = [figure for plan in plans[:MOST_FIGURES] if (figure := plan())]
        section.undrawn = len(plans[MOST_FIGURES:])
    for i, figure in across.openorca_figures([section.block for section in sections]):
        sections[i].figures.append(figure)
