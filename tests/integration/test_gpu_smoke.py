"""scripts/gpu_smoke.sh with a stand-in for training: every command would be accepted, and failures are told well."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """
import json, sys
from pathlib import Path
from mosld.common.errors import UserError
from mosld.config.compose import load_config
given = sys.argv[sys.argv.index("-m", 2 if "accelerate" in sys.argv[2] else 1) + 1 :]
if given[0] == "mosld.report":
    place = Path(given[given.index("--output") + 1])
    place.mkdir()
    sys.exit((place / "report.html").write_text("a table") and 0)
try:
    config = load_config(given[1:])
except UserError as error:
    sys.exit(f"error: {error}")
file = next((Path(one).stem for one in sys.argv if one.endswith(".yaml")), "single")
engine = "fsdp" if file.startswith("fsdp") else file.removeprefix("deepspeed_")
place = Path(config.output_dir)
place.mkdir(parents=True)
found = {"status": "finished", "processes": {"engine": engine, "count": 2}, "tokens_per_second": 1.0}
(place / "results.json").write_text(json.dumps(found))
(place / "metrics.jsonl").write_text(json.dumps({"cross_entropy": 2.0}))
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter whose mosld.train composes the config, writes what a run would leave, and trains nothing."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    path = tmp_path / "python"
    real = sys.executable
    path.write_text(
        f'#!/bin/bash\ncase "$*" in\n'
        f'*mosld.train* | *mosld.report*) exec {real} {tmp_path}/stand_in.py "$@" ;;\n*) exec {real} "$@" ;;\nesac\n'
    )
    path.chmod(0o755)
    return path


def smoke(python: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": str(python), "DEVICE": "cpu", "MODEL": "tiny", "PYTHONPATH": str(ROOT)}
    command = ["bash", str(ROOT / "scripts" / "gpu_smoke.sh"), *more]
    return subprocess.run(
        command, env=environment | {"OUT": str(python.parent / "out")}, capture_output=True, text=True
    )


def test_every_check_is_a_command_that_would_be_accepted(python: Path):
    done = smoke(python)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("PASS: ")
    assert "FAIL" not in done.stdout
    engines = {json.loads(path.read_text())["processes"]["engine"] for path in python.parent.glob("out/*/results.json")}
    assert engines == {"single", "ddp", "fsdp", "zero2", "zero3"}


def test_a_failure_is_told_in_mosld_s_own_words(python: Path):
    done = smoke(python, "method.rnk=4")
    assert done.returncode == 1
    assert "FAIL: " in done.stdout.splitlines()[-1]
    told = next(line for line in done.stdout.splitlines() if line.startswith("one process"))
    assert "error: method.rnk" in told
    assert "did you mean" in told
