"""scripts/gpu_report.sh rehearsed on CPU, and the page that is made of its figures."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_report.sh"
PAGE = ROOT / "docs" / "explanation" / "gpu.md"
PARTS = re.findall(r"^part (\w+) ", SCRIPT.read_text(), flags=re.MULTILINE)
TABLES = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))


def report(out: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), **variables}
    command = ["bash", str(SCRIPT), "--rehearse", str(out)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def tables_of(page: str) -> dict[str, str]:
    return dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- /\1 -->", page, flags=re.DOTALL))


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler on CPU")
@pytest.mark.timeout(1800)  # a process for each part, and compiled layers
def test_every_part_runs_and_is_on_the_page_and_the_same_command_goes_on(tmp_path: Path):
    done = report(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = tables_of((tmp_path / "gpu.md").read_text())
    assert {name: text for name, text in tables.items() if text.count("|") < 9} == {}
    checks = json.loads((tmp_path / "correctness.json").read_text())["rows"]
    assert {row["check"] for row in checks if row["result"] == "pass"} >= {"gradients", "packed", "compiled", "resumed"}
    (tmp_path / "scores.json").unlink()
    again = report(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("is there") == len(PARTS) - 1
    assert (tmp_path / "scores.json").is_file()


@pytest.mark.parametrize(
    ("variables", "said"),
    [({"MODEL": "smolm2"}, "smollm2_135m"), ({"LIMIT": "0"}, "the same command goes on here")],
)
def test_a_part_that_fails_or_is_not_started_is_named(variables: dict[str, str], said, tmp_path):
    done = report(tmp_path, PARTS="scores", **variables)
    assert done.returncode == 1
    assert "FAIL: scores;" in done.stdout
    table = tables_of((tmp_path / "gpu.md").read_text())["scores"]
    assert said in done.stderr + table
    assert ("FAIL" in table) == ("MODEL" in variables)
    assert (table == "not run") == ("LIMIT" in variables)
    assert report(tmp_path, PARTS="scores", **variables).returncode == 1


def test_the_page_has_a_table_for_every_part():
    assert sorted(tables_of(PAGE.read_text())) == sorted(PARTS)


def test_a_table_names_its_card_and_what_was_not_run_says_so(tmp_path: Path):
    card = {"device": "NVIDIA H100 80GB HBM3", "threads": 16, "torch": "2.11.0+cu130"}
    rows = [{"method": "mosld", "tokens/s": 15000.0}]
    (tmp_path / "speed_512.json").write_text(json.dumps({"title": "A step", "machine": card, "rows": rows}))
    tables = tables_of(TABLES["filled"](TABLES["emptied"](PAGE.read_text()), tmp_path))
    assert "NVIDIA H100 80GB HBM3" in tables.pop("speed_512")
    assert set(tables.values()) == {"not run"}
