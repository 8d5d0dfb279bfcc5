"""Puts measured figures into a document: each JSON file of a benchmark as the table between its two marks.

    python benchmarks/tables.py FOLDER docs/explanation/performance.md docs/reference/scaling.md
    python benchmarks/tables.py --all FOLDER docs/explanation/gpu.md    # "not run" where FOLDER has no file

The table of FOLDER/step_time.json goes between the lines `<!-- step_time -->` and `<!-- /step_time -->`.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any


def cell(value: Any) -> str:
    """Three figures of a number; text as it is."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(figures: dict[str, Any]) -> str:
    """What one benchmark wrote, in markdown."""
    columns = list(figures["rows"][0])
    lines = [columns, [":--" if isinstance(figures["rows"][0][c], str) else "--:" for c in columns]]
    lines += [[cell(row[column]) for column in columns] for row in figures["rows"]]
    more = {name: value for name, value in figures.items() if name not in ("title", "machine", "rows")}
    here = figures["machine"]
    about = [f"{figures['title']}. {here['device']}, {here['threads']} threads, torch {here['torch']}."]
    about += (
        [", ".join(f"{name.replace('_', ' ')} {cell(value)}" for name, value in more.items()) + "."] if more else []
    )
    return "\n".join([*about, "", *(f"| {' | '.join(line)} |" for line in lines)])


def put(text: str, name: str, body: str) -> str:
    """The document with `body` between the marks of that name; as it is where it has none."""
    new = f"<!-- {name} -->\n{body}\n<!-- /{name} -->"
    return re.sub(rf"<!-- {name} -->\n.*?<!-- /{name} -->", lambda _: new, text, flags=re.DOTALL)


def filled(text: str, folder: Path) -> str:
    """The document with the table of every JSON file of the folder that it has marks for."""
    for path in sorted(folder.glob("*.json")):
        text = put(text, path.stem, table(json.loads(path.read_text())))
    return text


def emptied(text: str) -> str:
    """The document with "not run" between all marks."""
    for name in re.findall(r"^<!-- /(\w+) -->$", text, flags=re.MULTILINE):
        text = put(text, name, "not run")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every table is of the folder; the others say: not run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("documents", type=Path, nargs="+")
    given = parser.parse_args()
    for document in given.documents:
        text = document.read_text()
        document.write_text(filled(emptied(text) if given.all else text, given.folder))


if __name__ == "__main__":
    main()
