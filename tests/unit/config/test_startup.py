"""Start-up in fresh processes: nothing heavy is imported before config and data are checked; exit codes and streams."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate")
AS_COMMAND = """
import runpy, sys
sys.argv = [{module!r}, *{arguments!r}]
try:
    runpy.run_module({module!r}, run_name="__main__")
except SystemExit:
    pass
"""
REPORT = f"\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"

HELP = ("mosld.train", ["--help"])
REFUSED = ("mosld.train", ["method.rnk=4"])
NO_DATA = ("mosld.train", ["source=local", "source.root=nowhere"])
NO_RUN = ("mosld.eval", ["run=nowhere"])
NO_RUNS = ("mosld.report", ["nowhere"])
NOTHING_TO_INSPECT = ("mosld.inspect", ["nowhere"])
COMMANDS = {
    "help": HELP,
    "a wrong key": REFUSED,
    "no data": NO_DATA,
    "no run to score": NO_RUN,
    "no run to inspect": NOTHING_TO_INSPECT,
    "no runs to report": NO_RUNS,
}


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("module", ["mosld", "mosld.train", "mosld.eval", "mosld.report"])
def test_importing_a_light_module_imports_nothing_heavy(module: str, tmp_path: Path):
    done = python(tmp_path, "-c", f"import {module}{REPORT}")
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_trains_nothing_imports_nothing_heavy(name: str, tmp_path: Path):
    module, arguments = COMMANDS[name]
    done = python(tmp_path, "-c", AS_COMMAND.format(module=module, arguments=arguments) + REPORT)
    assert done.stderr.strip().splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    return python(tmp_path_factory.mktemp("refused"), "-m", REFUSED[0], *REFUSED[1], "seed=-1")


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    return python(tmp_path_factory.mktemp("helped"), "-m", HELP[0], *HELP[1])


def test_help_exits_with_0(helped: subprocess.CompletedProcess[str]):
    assert helped.returncode == 0


def test_help_lists_every_key(helped: subprocess.CompletedProcess[str]):
    assert all(key in helped.stdout for key in ("method.rank", "training.learning_rate", "source.on_bad_row"))


def test_a_refused_command_exits_with_2(refused: subprocess.CompletedProcess[str]):
    assert refused.returncode == 2


def test_a_refused_command_says_nothing_on_stdout(refused: subprocess.CompletedProcess[str]):
    assert refused.stdout == ""


def test_a_refused_command_puts_one_message_a_mistake_on_stderr(refused: subprocess.CompletedProcess[str]):
    assert [line.split(":")[0] for line in refused.stderr.splitlines()] == ["error", "error"]


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("mosld.train", ["source=local", "source.root=nowhere"]),
        ("mosld.eval", []),
        ("mosld.eval", ["run=nowhere"]),
        NOTHING_TO_INSPECT,
        ("mosld.report", []),
        ("mosld.report", ["nowhere"]),
    ],
)
def test_a_users_mistake_is_one_line_on_stderr_without_a_traceback(module: str, arguments: list[str], tmp_path: Path):
    done = python(tmp_path, "-m", module, *arguments)
    assert (done.returncode, done.stderr.startswith("error: "), "Traceback" in done.stderr) == (2, True, False)


def test_a_machine_without_git_has_no_git_hash(tmp_path: Path):
    command = "import os; os.environ['PATH'] = ''; from mosld.runs.results import git_hash; print(git_hash())"
    assert python(tmp_path, "-c", command).stdout == "None\n"


def test_a_refused_command_leaves_no_file(tmp_path: Path):
    python(tmp_path, "-m", "mosld.train", "source=local", "source.root=nowhere")
    assert list(tmp_path.iterdir()) == []


def test_an_output_dir_that_is_a_file_is_a_users_mistake(tmp_path: Path, toy_root: Path):
    (tmp_path / "taken").write_text("")
    done = python(
        tmp_path, "-m", "mosld.train", "data=single_obqa", "source=local", f"source.root={toy_root}", "output_dir=taken"
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def test_bad_rows_are_all_named_before_a_directory_is_made(tmp_path: Path):
    rows = tmp_path / "rows" / "obqa"
    rows.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (rows / f"{split}.jsonl").write_text("{\n" + json.dumps({"id": "a"}) + "\n")
    done = python(tmp_path, "-m", "mosld.train", "data=single_obqa", "source=local", "source.root=rows")
    assert (done.stderr.count(".jsonl:"), (tmp_path / "outputs").exists()) == (6, False)
