"""report.html: one file with everything in it; nothing is fetched, nothing is sent."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosld.reporting.run import Run
from mosld.reporting.sections import Section
from mosld.reporting.table import Cell, Table

if TYPE_CHECKING:
    from mosld.reporting.style import Drawn

FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
{body}
<dialog aria-label="The runs behind a number"><p>The runs behind this number:</p><ul></ul>
<form method="dialog"><button>Close</button></form></dialog>
<script>
{js}</script>
</body>
</html>
"""


def page(sections: Sequence[Section], left_out: Sequence[tuple[str, str]]) -> str:
    """The whole page.

    Args:
        sections: tables and figures.
        left_out: what no table uses, with the reason.
    """
    runs = list({run.path: run for s in sections for row in s.block.rows for run in row.all_runs}.values())
    ids = {run.path: f"run-{i}" for i, run in enumerate(runs, 1)}
    body = [
        f"<h1>mosld: {len(runs)} runs</h1>",
        "<p>A number leads to the config of its runs; a click on a column's head sorts by it.</p>",
        *_contents(sections, left_out),
        *(part for i, section in enumerate(sections) for part in _section(i, section, ids)),
        *_left_out(left_out),
        '<section id="runs"><h2>Runs</h2>',
        *(_run(run, ids[run.path]) for run in runs),
        "</section>",
    ]
    here = Path(__file__).parent
    css, js = ((here / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return FRAME.format(title=f"mosld: {len(runs)} runs", css=css, js=js, body="\n".join(body))


def _contents(sections: Sequence[Section], left_out: Sequence[tuple[str, str]]) -> Iterator[str]:
    entries = [(f"#part-{i}", section.title) for i, section in enumerate(sections)]
    entries += [("#left-out", f"Left out ({len(left_out)})")] if left_out else []
    entries.append(("#runs", "Runs"))
    yield "<nav><ul>"
    yield from (f'<li><a href="{target}">{escape(title)}</a></li>' for target, title in entries)
    yield "</ul></nav>"


def _section(i: int, section: Section, ids: Mapping[Path, str]) -> Iterator[str]:
    yield f'<section id="part-{i}"><h2>{escape(section.title)}</h2>{_notes(section.block.facts)}'
    for table in section.tables:
        if not table.long:
            yield from _table(table, section, ids)
    if section.figures:
        yield '<div class="figures">'
        yield from (_figure(figure) for figure in section.figures)
        yield "</div>" + _notes([section.note] if section.note else [])
    for table in section.tables:
        if table.long:
            yield '<details class="long"><summary>' + _kind(table, section) + "</summary>"
            yield from _table(table, section, ids)
            yield "</details>"
    yield "</section>"


def _kind(table: Table, section: Section) -> str:
    """A table's title without the section's."""
    kind = table.title.removesuffix(f", {section.title}")
    return escape(kind[0].upper() + kind[1:])


def _notes(notes: Sequence[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>' if notes else ""


def _table(table: Table, section: Section, ids: Mapping[Path, str]) -> Iterator[str]:
    if not table.long and table.title != section.title:
        yield f"<h3>{_kind(table, section)}</h3>"
    numeric = [table.numeric(i) for i in range(len(table.columns))]
    classes = [' class="number"' if number else "" for number in numeric]
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}"><table><thead><tr>'
    yield "".join(
        f'<th scope="col"{kind}><button>{escape(column)}</button></th>'
        for column, kind in zip(table.columns, classes, strict=True)
    )
    yield "</tr></thead><tbody>"
    for row in table.rows:
        yield f"<tr>{''.join(_cell(cell, number, ids) for cell, number in zip(row, numeric, strict=True))}</tr>"
    yield "</tbody></table></div>"
    yield _notes([note for note in table.notes if note not in section.block.facts])


def _cell(cell: Cell, number: bool, ids: Mapping[Path, str]) -> str:
    names = " ".join(name for name, on in (("number", number), ("best", cell.best)) if on)
    value = f' data-value="{cell.value!r}"' if cell.value is not None else ""
    text = escape(cell.text)
    runs = list(dict.fromkeys(ids[run.path] for run in cell.runs if run.path in ids))
    if runs:
        text = f'<a href="#{runs[0]}" data-runs="{" ".join(runs)}">{text}</a>'
    kind = f' class="{names}"' if names else ""
    return f"<td{kind}{value}>{text}</td>"


def _figure(figure: "Drawn") -> str:
    data = base64.b64encode(figure.svg.encode()).decode()
    return f'<figure><img alt="{escape(figure.title)}" src="data:image/svg+xml;base64,{data}"></figure>'


def _left_out(left_out: Sequence[tuple[str, str]]) -> Iterator[str]:
    if left_out:
        yield f'<section id="left-out"><h2>Left out ({len(left_out)})</h2>'
        yield '<div class="scroll"><table><thead><tr><th>where</th><th>why</th></tr></thead><tbody>'
        yield from (f"<tr><td>{escape(path)}</td><td>{escape(why)}</td></tr>" for path, why in left_out)
        yield "</tbody></table></div></section>"


def _run(run: Run, name: str) -> str:
    """One run, folded: scores, how it was made, its config."""
    title = f"{run.method}, {run.data}, seed {run.seed}: {run.path}"
    told = {key: run.results.get(key) for key in ("config_hash", "git_hash", "overrides", "versions", "dtype")}
    told["scores"] = {task: run.accuracy(task) for task in run.scores}
    lines = [f"{key}: {_value(value)}" for key, value in {**told, **dict(sorted(run.config.items()))}.items()]
    return f'<details id="{name}"><summary>{escape(title)}</summary><pre>{escape(chr(10).join(lines))}</pre></details>'


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
