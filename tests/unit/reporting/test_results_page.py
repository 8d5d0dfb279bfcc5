"""The tables of docs/reference/results.md are those that the report makes of the committed results.json files."""

import re
from pathlib import Path

import pytest

from mosld import report

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> list[str]:
    """The lines of the report that the page's command writes, without figures."""
    target = tmp_path_factory.mktemp("report")
    assert report.main([str(DOCS / "results"), "--resamples", "0", "--no-figures", "--output", str(target)]) == 0
    return (target / "report.md").read_text().splitlines()


def test_every_line_of_its_tables_is_the_reports(made):
    blocks = re.findall(
        r"<!-- report -->\n(.*?)<!-- /report -->", (DOCS / "reference" / "results.md").read_text(), flags=re.S
    )
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("|")]
    assert len(lines) > 20  # three tables
    assert [line for line in lines if line not in made] == []


def test_no_committed_run_holds_text_or_a_place_of_its_machine():
    files = list((DOCS / "results").rglob("*"))
    assert {path.name for path in files if path.is_file()} == {"results.json"}
    for path in files:
        assert path.is_dir() or not re.search(r'"(question|choices|prediction)"|"/\w+/', path.read_text()), path
