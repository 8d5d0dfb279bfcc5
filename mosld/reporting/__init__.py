"""From runs to tables and figures: files of runs in, files of a report out; nothing is trained or scored."""

from mosld.reporting.blocks import make_blocks
from mosld.reporting.collect import collect
from mosld.reporting.compare import Comparer
from mosld.reporting.outcomes import Outcomes
from mosld.reporting.paper import paper_numbers
from mosld.reporting.sections import draw, make_sections
from mosld.reporting.terminal import print_report
from mosld.reporting.writing import require_place, write_report

__all__ = [
    "Comparer",
    "Outcomes",
    "collect",
    "draw",
    "make_blocks",
    "make_sections",
    "paper_numbers",
    "print_report",
    "require_place",
    "write_report",
]
