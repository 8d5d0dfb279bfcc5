"""Check that every link and every file name in README.md, CONTRIBUTING.md, CHANGELOG.md, docs/ and the code exists.

    python scripts/check_links.py

`mkdocs build --strict` checks the links between the pages of the site; this script also covers the files beside it:

* relative links of all pages, with their anchors; a page of docs/ may only link to files below docs/, since the site
  has no others;
* files and directories of the repository that a page names in backticks;
* pages of docs/ that a source file, a YAML file or a script names.

Prints one line for each fault and exits with 1 if there is one.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = ("mosld", "conf", "scripts", "benchmarks", "tests")
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")
NAMED_FILE = re.compile(r"`((?:mosld|conf|tests|docs|scripts|benchmarks)/[\w/.-]*)`")
NAMED_PAGE = re.compile(r"\bdocs/[\w/.-]+\.(?:md|svg)")
HEADING = re.compile(r"^#+ (.*)$", flags=re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)
NOT_YET_THERE = {"conf/method/mosld_ffn.yaml"}  # the file that docs/how-to/adding_a_method.md tells the reader to write


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown's toc makes them."""
    titles = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in HEADING.findall(prose(page)))
    return {re.sub(r"[-\s]+", "-", title) for title in titles}


def prose(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def faults_of_page(page: Path) -> Iterator[str]:
    """Links that lead nowhere, and files that do not exist."""
    for link, anchor in LINK.findall(prose(page)):
        target = (page.parent / link).resolve() if link else page
        if not target.exists():
            yield f"no file for the link {link}"
        elif ROOT / "docs" in page.parents and ROOT / "docs" not in target.parents:
            yield f"the link {link} leaves docs/; name the file in backticks instead"
        elif anchor and anchor not in anchors(target):
            yield f"no heading for the link {link}#{anchor}"
    for name in NAMED_FILE.findall(prose(page)):
        if name not in NOT_YET_THERE and not (ROOT / name).exists():
            yield f"no file {name}"


def faults_of_source(path: Path) -> Iterator[str]:
    """Pages of docs/ that a source file names and that do not exist."""
    for name in NAMED_PAGE.findall(path.read_text(encoding="utf-8")):
        if not (ROOT / name).exists():
            yield f"no page {name}"


def sources() -> Iterator[Path]:
    """Python files, YAML files and scripts."""
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml", ".sh", ".sbatch") and path != Path(__file__).resolve():
                yield path


def main() -> int:
    """Check all pages and sources; return the exit code."""
    faults = [f"{page.relative_to(ROOT)}: {fault}" for page in PAGES for fault in faults_of_page(page)]
    faults += [f"{path.relative_to(ROOT)}: {fault}" for path in sources() for fault in faults_of_source(path)]
    for fault in faults:
        print(fault)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
