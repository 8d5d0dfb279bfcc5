"""report.html: one file with everything in it, which fetches nothing and sends nothing."""

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from mosld.reporting.run import Run
from mosld.reporting.sections import Section
from mosld.reporting.table import Cell, Table

FOLDER = Path(__file__).parent
RUN_KEYS = ("config_hash", "git_hash", "overrides", "versions", "dtype")


def html_page(head: Sequence[str], sections: Sequence[Section], left_out: Sequence[tuple[str, str]]) -> str:
    """The page: sentences below its title, the sections, and the paths that no table uses with the reason."""
    rows = [row for section in sections if section.block for row in section.block.rows]
    runs = list({run.path: run for row in rows for run in row.all_runs}.values())
    ids = {run.path: f"run-{i}" for i, run in enumerate(runs, 1)}

    def run_ids(cell: Cell) -> list[str]:
        return list(dict.fromkeys(ids[run.path] for run in cell.runs if run.path in ids))

    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True)
    environment.globals.update(
        run_ids=run_ids,
        run_lines=_run_lines,
        short_title=_short_title,
        base64=lambda text: base64.b64encode(text.encode()).decode(),
        css=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        js=Markup((FOLDER / "report.js").read_text(encoding="utf-8")),
    )
    template = environment.get_template("report.html.jinja")
    return template.render(head=head, sections=sections, left_out=left_out, runs=runs) + "\n"


def _short_title(table: Table, section: Section) -> str:
    """A table's title without the section's."""
    title = table.title.removesuffix(f", {section.title}")
    return title[0].upper() + title[1:]


def _run_lines(run: Run) -> Iterator[str]:
    """Versions, scores and config of a run."""
    facts: dict[str, object] = {key: run.results.get(key) for key in RUN_KEYS}
    facts["scores"] = {task: run.accuracy(task) for task in run.scores}
    for key, value in {**facts, **dict(sorted(run.config.items()))}.items():
        yield f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
