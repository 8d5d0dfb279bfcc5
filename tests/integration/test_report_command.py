"""`python -m mosld.report` as a user types it: what it prints, writes and refuses, and that its page needs nothing."""

import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import pytest

from mosld.report import main
from mosld.train import main as train
from tests.helpers.result_trees import SIX, answers, results, write_run

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
VOID_TAGS = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, two seeds, single and mixture, one failed run."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        for method, pattern in (("lora", "1100"), ("mosld", "1110")):
            write_run(root / f"{method}{seed}", {task: answers(pattern) for task in SIX}, method=method, seed=seed)
    for task in SIX:
        write_run(root / task, {task: answers("1000")}, data=f"single_{task}")
    (root / "failed").mkdir()
    failed = results({"obqa": answers("1")}, status="failed", error="<b>oops</b>")
    (root / "failed" / "results.json").write_text(json.dumps(failed))
    return root


@pytest.fixture(scope="module")
def output(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the tree, with figures."""
    folder = tmp_path_factory.mktemp("report") / "new"
    assert main([str(tree), "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def page(output: Path) -> Page:
    return Page((output / "report.html").read_text())


def test_files_are_tables_figures_and_two_pages(output: Path):
    kinds = {path.suffix for folder in ("tables", "figures") for path in (output / folder).iterdir()}
    assert kinds == {".csv", ".tex", ".svg", ".png"}
    assert sorted(path.name for path in output.iterdir()) == ["figures", "report.html", "report.md", "tables"]
    shown = re.findall(r"\]\((figures/[^)]+)\)", (output / "report.md").read_text())
    assert shown
    assert [name for name in shown if not (output / name).is_file()] == []


def test_page_closes_its_tags_and_fetches_nothing(page: Page, output: Path):
    assert page.open == []
    assert [url for url in page.values("src") if not url.startswith("data:image/svg+xml;base64,")] == []
    assert [url for url in page.values("href") if not url.startswith("#")] == []
    assert "link" not in {tag for tag, _ in page.tags}
    text = (output / "report.html").read_text()
    words = ("@import", "url(", "fetch(", "XMLHttpRequest", "http://", "https://")
    assert [word for word in words if word in text] == []


def test_links_lead_to_all_runs_of_a_number(page: Page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    behind_numbers = [names.split() for names in page.values("data-runs")]
    links = [url[1:] for url in page.values("href")] + [name for names in behind_numbers for name in names]
    assert set(links) - set(ids) == set()
    assert {len(names) for names in behind_numbers} >= {1, 2}


def test_page_shows_the_config_of_each_run_and_text_is_no_markup(output: Path):
    text = (output / "report.html").read_text()
    assert text.count("<details id=") == 10
    assert text.count("method.dropout: 0.1") == 10
    assert ("<b>oops" in text, "&lt;b&gt;oops" in text) == (False, True)


def test_head_says_when_by_what_and_of_which_data(tree: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    main([str(tree), "--output", str(tmp_path / "r"), "--no-figures"])
    command = f"python -m mosld.report {tree} --output {tmp_path / 'r'} --no-figures"
    for page in ("report.md", "report.html"):
        text = (tmp_path / "r" / page).read_text()
        assert f"Made 2023-11-14 22:13 UTC by mosld {version('mosld')}" in text
        assert command in text
        assert "4 on mixture (bundled, " in text


def test_columns_can_be_sorted_by_keyboard(page: Page):
    heads = [i for i, (tag, attributes) in enumerate(page.tags) if tag == "th" and "scope" in attributes]
    assert heads
    assert {page.tags[i + 1][0] for i in heads} == {"button"}


def test_terminal_has_tables_reasons_and_the_page(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tree), "--output", str(tmp_path / "r"), "--no-figures"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "r" / "report.html")
    assert any(line.startswith("mixture: toy float32, bundled data") for line in lines)
    assert any(line.strip().startswith(f"{tree}/failed: failed") for line in lines)


@pytest.mark.slow
def test_same_runs_give_the_same_report_and_a_second_one_replaces_the_first(tree: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    pages = []
    for _ in range(2):
        main([str(tree), "--output", "r"])
        pages.append({path: path.read_bytes() for path in sorted(Path("r").rglob("*")) if path.is_file()})
    assert pages[0] == pages[1]
    main([str(tree / "lora0"), "--output", "r", "--no-figures"])
    assert list(Path("r", "figures").iterdir()) == []


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_output_with_other_files_is_refused(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine.txt").write_text("x")
    assert "holds no report" in refused(capsys, str(tree), "--output", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_unknown_row_is_refused_with_the_nearest(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    error = refused(capsys, str(tree), "--output", str(tmp_path / "r"), "--against", "mosdl")
    assert "did you mean 'mosld'?" in error


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["--outptu", "x"], [".", "--resamples", "-1"]])
def test_wrong_arguments_are_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, *arguments).startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_no_heavy_package_is_imported(tree: Path, tmp_path: Path):
    code = (
        "import sys; from mosld.report import main; main(sys.argv[1:]); "
        "print([name for name in ('torch', 'transformers', 'peft', 'datasets', 'matplotlib', 'scipy.stats') "
        "if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tree), "--output", str(tmp_path / "r"), "--no-figures"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_real_runs_are_reported_and_a_mixture_is_compared_with_its_single_run(tmp_path: Path, toy_root: Path):
    common = ["model=tiny", "source=local", f"source.root={toy_root}", "debug=fast", "logger=files"]
    for name, overrides in {
        "a": ["method=mosld", "data.tasks=[obqa,csqa]"],
        "b": ["method=full", "data.tasks=[obqa,csqa]"],
        "c": ["method=mosld", "data=single_obqa"],
    }.items():
        assert train([*common, f"output_dir={tmp_path / 'runs' / name}", *overrides]) == 0
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "r"), "--no-figures"]) == 0
    text = (tmp_path / "r" / "report.md").read_text()
    for row in ("(untrained)", "full", "mosld"):
        assert f"\n| {row} |" in text
    gains = text[text.index("### mixture minus single") :]
    assert re.search(r"\n\| mosld \| [+-]\d+\.\d \|\n", gains)
    assert "left out of tests" not in text


def table_rows(lines: list[str], title: str = "") -> list[dict[str, str]]:
    """The rows of the first Markdown table behind a line that starts with the title."""
    begin = next(i for i, line in enumerate(lines) if line.startswith(title)) if title else 0
    while not lines[begin].startswith("|"):
        begin += 1
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in itertools.takewhile(lambda line: line.startswith("|"), lines[begin:])
    ]
    # Each correction is that of the test before it.
    head = [f"Holm of {cells[0][i - 1]}" if name == "Holm" else name for i, name in enumerate(cells[0])]
    return [dict(zip(head, row, strict=True)) for row in cells[2:]]


@pytest.mark.parametrize("folder", ["chosen_rate", "all_layers/chosen_rate"])
def test_tables_of_the_results_page_are_those_of_the_report(folder: str, tmp_path: Path):
    """Those of significance in all that can be known without predictions, which are not kept."""
    runs = str(DOCS / "results" / folder)
    assert main([runs, "--resamples", "0", "--no-figures", "--output", str(tmp_path)]) == 0
    report = (tmp_path / "report.md").read_text().splitlines()
    page = (DOCS / "reference" / "results.md").read_text()
    blocks = re.findall(rf"<!-- report {folder} -->\n(.*?)<!-- /report -->", page, flags=re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("|")]
    assert len(lines) > 10
    assert [line for line in lines if line not in report] == []
    tests = re.findall(rf"<!-- tests {folder}: ([^\n]*) -->\n(.*?)<!-- /tests -->", page, flags=re.S)
    for title, block in tests:
        known = {(row["method"], row["task"]): row for row in table_rows(report, f"### {title}")}
        for shown in table_rows(block.splitlines()):
            row = known[shown["method"], shown["task"]]
            shared = shown.keys() & row.keys()
            assert {"difference", "p, Welch", "Holm of p, Welch", "seeds"} <= shared
            assert {key: shown[key] for key in shared} == {key: row[key] for key in shared}


def test_committed_runs_hold_no_text_of_the_data_and_no_absolute_path():
    files = [path for path in (DOCS / "results").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"results.json"}
    assert [path for path in files if re.search(r'"(question|choices|prediction)"|"/\w+/', path.read_text())] == []
