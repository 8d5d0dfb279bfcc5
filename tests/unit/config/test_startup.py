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

CONSOLE = ("mosld", [])
CONSOLE_HELP = ("mosld", ["chat", "--help"])
HELP = ("mosld.train", ["--help"])
REFUSED = ("mosld.train", ["method.rnk=4"])
NO_DATA = ("mosld.train", ["source=local", "source.root=nowhere"])
NO_RUN = ("mosld.eval", ["run=nowhere"])
NO_RUNS = ("mosld.report", ["nowhere"])
NOTHING_TO_INSPECT = ("mosld.inspect", ["nowhere"])
COMMANDS = {
    "the commands": CONSOLE,
    "help of a command": CONSOLE_HELP,
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
def test_light_module_imports_nothing_heavy(module: str, tmp_path: Path):
    done = python(tmp_path, "-c", f"import {module}{REPORT}")
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_command_that_trains_nothing_imports_nothing_heavy(name: str, tmp_path: Path):
    module, arguments = COMMANDS[name]
    done = python(tmp_path, "-c", AS_COMMAND.format(module=module, arguments=arguments) + REPORT)
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_help_lists_every_key(tmp_path: Path):
    done = python(tmp_path, "-m", HELP[0], *HELP[1])
    assert done.returncode == 0
    assert all(key in done.stdout for key in ("method.rank", "training.learning_rate", "source.on_bad_row"))


def test_refused_command_prints_a_line_per_mistake_on_stderr_only(tmp_path: Path):
    done = python(tmp_path, "-m", REFUSED[0], *REFUSED[1], "seed=-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "error"]


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
def test_users_mistake_is_one_line_without_traceback_and_leaves_no_file(
    module: str, arguments: list[str], tmp_path: Path
):
    done = python(tmp_path, "-m", module, *arguments)
    assert (done.returncode, done.stderr.startswith("error: "), "Traceback" in done.stderr) == (2, True, False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mosld tr", {"train "}),
        ("mosld copy", {"copy-config "}),
        ("mosld train method=mosl", {"method=mosl", "method=mosld", "method=mosld_b"}),
        ("mosld plan training.compile=", {"training.compile=true", "training.compile=false"}),
        ("mosld train method.virt", {"method.virtual_tokens="}),
        ("mosld chat --temp", {"--temperature "}),
    ],
)
def test_a_shell_is_told_how_a_word_goes_on(line: str, words: set[str], tmp_path: Path, monkeypatch):
    answer = tmp_path / "answer"
    variables = {
        "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9",
        "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SHELL": "zsh", "_ARGCOMPLETE_SUPPRESS_SPACE": "0",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    python(tmp_path, "-m", "mosld")
    assert {word.partition(":")[0].strip() for word in answer.read_text().splitlines()} == {w.strip() for w in words}


def test_git_hash_is_none_without_git(tmp_path: Path):
    command = "import os; os.environ['PATH'] = ''; from mosld.runs.results import git_hash; print(git_hash())"
    assert python(tmp_path, "-c", command).stdout == "None\n"


def test_output_dir_that_is_a_file_is_refused(tmp_path: Path, toy_root: Path):
    (tmp_path / "taken").write_text("")
    done = python(
        tmp_path, "-m", "mosld.train", "data=single_obqa", "source=local", f"source.root={toy_root}", "output_dir=taken"
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def test_bad_rows_are_all_listed_before_a_directory_is_made(tmp_path: Path):
    rows = tmp_path / "rows" / "obqa"
    rows.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (rows / f"{split}.jsonl").write_text("{\n" + json.dumps({"id": "a"}) + "\n")
    done = python(tmp_path, "-m", "mosld.train", "data=single_obqa", "source=local", "source.root=rows")
    assert (done.stderr.count(".jsonl:"), (tmp_path / "outputs").exists()) == (6, False)
