"""The last stage: the files of a report, each whole or not there."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mosld.config import UserError
from mosld.logging.atomic import write_text
from mosld.reporting.page import page
from mosld.reporting.sections import Section
from mosld.reporting.table import unlike
from mosld.reporting.texts import as_csv, latex, markdown

PAGE, PROSE = "report.html", "report.md"


def require_place(output: Path) -> None:
    """Refuse a directory that holds something other than an earlier report.

    Raises:
        UserError: it does, or it cannot be a directory.
    """
    try:
        taken = output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / PAGE).is_file()))
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}.") from error
    if taken:
        raise UserError(f"--output {output}: is not empty and holds no report; name a new directory.")


def write_report(output: Path, sections: Sequence[Section], left_out: Sequence[tuple[str, str]]) -> None:
    """Write report.html, report.md, tables/*.csv and *.tex, figures/*.svg and *.png, in place of an earlier report.

    Raises:
        UserError: something cannot be written.
    """
    try:
        for folder in ("tables", "figures"):
            shutil.rmtree(output / folder, ignore_errors=True)
            (output / folder).mkdir(parents=True)
        tables = [table for section in sections for table in section.tables]
        for name, table in unlike(tables):
            write_text(output / "tables" / f"{name}.csv", as_csv(table))
            write_text(output / "tables" / f"{name}.tex", latex(table))
        _write_prose(output, sections, left_out)
        write_text(output / PAGE, page(sections, left_out))
    except OSError as error:
        raise UserError(f"--output {output}: {error.filename}: {error.strerror}.") from error


def _write_prose(output: Path, sections: Sequence[Section], left_out: Sequence[tuple[str, str]]) -> None:
    """report.md, and the figures it shows."""
    parts, names = ["# Report", ""], set[str]()
    for section in sections:
        parts += [f"## {section.title}", "", *(markdown(table) for table in section.tables)]
        for figure in section.figures:
            name = next(n for n in _numbered(figure.slug) if n not in names)
            names.add(name)
            figure.write(output / "figures", name)
            parts += [f"![{figure.title}](figures/{name}.png)", ""]
        parts += [section.note, ""] if section.note else []
    if left_out:
        parts += ["## Left out", "", *(f"- {path}: {why}" for path, why in left_out), ""]
    write_text(output / PROSE, "\n".join(parts))


def _numbered(name: str) -> Sequence[str]:
    return [name, *(f"{name}-{i}" for i in range(2, 1000))]
