"""Start-up in fresh processes: nothing heavy is imported before config and data are checked; exit codes and streams."""

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
except SystemExit as end:
    print("exit code", end.code or 0)
"""
REPORT = f"\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"

# By command: its module, its arguments, its exit code.
COMMANDS = {
    "the commands": ("mosld", [], 0),
    "help of a command": ("mosld", ["chat", "--help"], 0),
    "help": ("mosld.train", ["--help"], 0),
    "a wrong key": ("mosld.train", ["method.rnk=4"], 2),
    "no data": ("mosld.train", ["source=local", "source.root=nowhere"], 2),
    "no run is named": ("mosld.eval", [], 2),
    "no run to score": ("mosld.eval", ["run=nowhere"], 2),
    "no run to inspect": ("mosld.inspect", ["nowhere"], 2),
    "no runs are named": ("mosld.report", [], 2),
    "no runs to report": ("mosld.report", ["nowhere"], 2),
}


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_that_trains_nothing_imports_nothing_heavy_and_leaves_no_file(name: str, tmp_path: Path):
    module, arguments, code = COMMANDS[name]
    done = python(tmp_path, "-c", AS_COMMAND.format(module=module, arguments=arguments) + REPORT)
    *errors, heavy = done.stderr.splitlines()
    assert (done.stdout.splitlines()[-1], heavy) == (f"exit code {code}", "[]")
    # A mistake of the user's is one line, without a traceback.
    assert [error.partition(":")[0] for error in errors] == ["error"] * (code == 2)
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_key(tmp_path: Path):
    done = python(tmp_path, "-m", "mosld.train", "--help")
    assert done.returncode == 0
    assert all(key in done.stdout for key in ("method.rank", "training.learning_rate", "source.on_bad_row"))


def test_refused_command_prints_a_line_per_mistake_on_stderr_only(tmp_path: Path):
    done = python(tmp_path, "-m", "mosld.train", "method.rnk=4", "seed=-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "error"]


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


@pytest.mark.slow
def test_output_dir_that_is_a_file_is_refused(tmp_path: Path, toy_root: Path):
    (tmp_path / "taken").write_text("")
    done = python(
        tmp_path, "-m", "mosld.train", "data=single_obqa", "source=local", f"source.root={toy_root}", "output_dir=taken"
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
