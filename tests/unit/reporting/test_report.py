"""The report command as a user runs it: what it prints and writes, what it refuses, and that its page needs nothing."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mosld.report import main
from mosld.train import main as train
from tests.helpers.result_trees import SIX, results, right, write_run

REPOSITORY = Path(__file__).resolve().parents[3]
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
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
            write_run(root / f"{method}{seed}", {task: right(pattern) for task in SIX}, method=method, seed=seed)
    for task in SIX:
        write_run(root / task, {task: right("1000")}, data=f"single_{task}")
    (root / "failed").mkdir()
    failed = results({"obqa": right("1")}, status="failed", error="<b>oops</b>")
    (root / "failed" / "results.json").write_text(json.dumps(failed))
    return root


@pytest.fixture(scope="module")
def output(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the tree, with figures."""
    folder = tmp_path_factory.mktemp("report") / "made"
    assert main([str(tree), "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def page(output: Path) -> Page:
    return Page((output / "report.html").read_text())


def test_the_files(output: Path):
    kinds = {path.suffix for folder in ("tables", "figures") for path in (output / folder).iterdir()}
    assert kinds == {".csv", ".tex", ".svg", ".png"}
    assert sorted(path.name for path in output.iterdir()) == ["figures", "report.html", "report.md", "tables"]


def test_every_figure_of_the_prose_is_there(output: Path):
    named = re.findall(r"\]\((figures/[^)]+)\)", (output / "report.md").read_text())
    assert [name for name in named if not (output / name).is_file()] == []
    assert named


def test_the_page_is_whole(page: Page):
    assert page.open == []


def test_the_page_fetches_nothing(page: Page):
    assert [url for url in page.values("src") if not url.startswith("data:image/svg+xml;base64,")] == []
    assert [url for url in page.values("href") if not url.startswith("#")] == []
    assert "link" not in {tag for tag, _ in page.tags}


def test_the_style_and_the_script_fetch_nothing(output: Path):
    text = (output / "report.html").read_text()
    assert [
        word for word in ("@import", "url(", "fetch(", "XMLHttpRequest", "http://", "https://") if word in text
    ] == []


def test_every_link_leads_somewhere(page: Page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = [url[1:] for url in page.values("href")] + [
        name for names in page.values("data-runs") for name in names.split()
    ]
    assert set(links) - set(ids) == set()


def test_each_accuracy_leads_to_all_its_runs(page: Page):
    assert {len(names.split()) for names in page.values("data-runs")} >= {1, 2}


def test_each_run_shows_its_config(output: Path):
    text = (output / "report.html").read_text()
    assert text.count("<details id=") == 10
    assert text.count("method.dropout: 0.1") == 10


def test_what_a_file_says_is_text_and_no_markup(output: Path):
    text = (output / "report.html").read_text()
    assert ("<b>oops" in text, "&lt;b&gt;oops" in text) == (False, True)


def test_columns_can_be_sorted_by_keyboard(page: Page):
    heads = [i for i, (tag, _) in enumerate(page.tags) if tag == "th" and "scope" in page.tags[i][1]]
    assert heads
    assert {page.tags[i + 1][0] for i in heads} == {"button"}


def test_the_terminal_has_tables_reasons_and_the_page(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tree), "--output", str(tmp_path / "r"), "--no-figures"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "r" / "report.html")
    assert any(line.startswith("mixture: toy float32, bundled data") for line in lines)
    assert any(line.strip().startswith(f"{tree}/failed: failed") for line in lines)


def test_the_same_runs_give_the_same_report(tree: Path, output: Path, tmp_path: Path):
    main([str(tree), "--output", str(tmp_path / "r")])
    files = [path.relative_to(output) for path in output.rglob("*") if path.is_file()]
    assert [path for path in files if (tmp_path / "r" / path).read_bytes() != (output / path).read_bytes()] == []


def test_a_second_report_takes_the_place_of_the_first(tree: Path, tmp_path: Path):
    folder = tmp_path / "r"
    main([str(tree), "--output", str(folder)])
    main([str(tree / "lora0"), "--output", str(folder), "--no-figures"])
    assert list((folder / "figures").iterdir()) == []


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    found = capsys.readouterr()
    assert found.out == ""
    return found.err


def test_a_directory_with_something_else_is_refused(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine.txt").write_text("x")
    assert "holds no report" in refused(capsys, str(tree), "--output", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_row_is_refused_with_the_nearest(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    told = refused(capsys, str(tree), "--output", str(tmp_path / "r"), "--against", "mosdl")
    assert "did you mean 'mosld'?" in told


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["--outptu", "x"], [".", "--resamples", "-1"]])
def test_mistakes_are_refused(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, *arguments).startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_nothing_heavy_is_imported(tree: Path, tmp_path: Path):
    code = (
        "import sys; from mosld.report import main; main(sys.argv[1:]); "
        "print([name for name in ('torch', 'transformers', 'peft', 'datasets', 'matplotlib', 'scipy.stats') "
        "if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tree), "--output", str(tmp_path / "r"), "--no-figures"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real runs: an adapter, a whole model, and the adapter's method on one task alone."""
    root = tmp_path_factory.mktemp("trained")
    for name, chosen in {
        "a": ["method=mosld", "data.tasks=[obqa,csqa]"],
        "b": ["method=full", "data.tasks=[obqa,csqa]"],
        "c": ["method=mosld", "data=single_obqa"],
    }.items():
        assert train(["debug=fast", "logger=files", f"output_dir={root / name}", *chosen]) == 0
    return root


def test_real_runs_and_whole_models_are_reported(trained: Path, tmp_path: Path):
    assert main([str(trained), "--output", str(tmp_path / "r")]) == 0
    prose = (tmp_path / "r" / "report.md").read_text()
    for row in ("(untrained)", "full", "mosld"):
        assert f"\n| {row} |" in prose


def test_a_real_mixture_is_compared_with_its_single_run(trained: Path, tmp_path: Path):
    main([str(trained), "--output", str(tmp_path / "r"), "--no-figures"])
    prose = (tmp_path / "r" / "report.md").read_text()
    gains = prose[prose.index("### mixture minus single") :]
    assert re.search(r"\n\| mosld \| [+-]\d+\.\d \| - \| - \|", gains)
    assert "left out of tests" not in prose
