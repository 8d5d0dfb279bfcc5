"""Signs of life: bars and a spinner on a terminal, occasional lines elsewhere, nothing about quick work."""

import io
import sys
import time

import pytest
from rich.console import Console as RichConsole

from mosld.runs import console
from mosld.runs.console import Console


@pytest.fixture
def quick(monkeypatch):
    """Notices come after tenths of a second."""
    monkeypatch.setattr(console, "FIRST_NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(console, "NOTICE_SECONDS", 0.15)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_a_terminal() -> tuple[Console, Terminal]:
    terminal = Console()
    screen = Terminal()
    terminal._err = RichConsole(file=screen, force_terminal=True, width=100)
    return terminal, screen


def test_quick_work_is_not_logged(capsys):
    with Console().working("loading tiny"):
        pass
    list(Console().track("scoring")(range(100)))
    assert capsys.readouterr().err == ""


def test_long_work_is_logged_with_its_seconds(quick, capsys):
    with Console().working("loading llama2_7b"):
        time.sleep(0.5)
    first, *later = capsys.readouterr().err.splitlines()
    assert first == "loading llama2_7b"
    assert 1 <= len(later) <= 3
    assert all(line.startswith("loading llama2_7b (") for line in later)


def test_failed_work_is_not_logged(quick, capsys):
    with pytest.raises(ValueError, match="no such model"), Console().working("loading tiny"):
        raise ValueError("no such model")
    time.sleep(0.3)
    assert capsys.readouterr().err == ""


def test_long_loop_logs_its_count(quick, capsys):
    for _ in Console().track("scoring")(range(10)):
        time.sleep(0.05)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3
    assert all(line.startswith("scoring ") and line.endswith("/10") for line in lines)


def test_log_file_has_the_lines(quick, tmp_path):
    with Console(tmp_path / "train.log").working("saving model/"):
        time.sleep(0.3)
    assert (tmp_path / "train.log").read_text().splitlines()[0].endswith("  saving model/")


def test_terminal_shows_a_spinner_and_erases_it():
    terminal, screen = on_a_terminal()
    with terminal.working("loading llama2_7b"):
        time.sleep(0.2)
        assert "loading llama2_7b" in screen.getvalue()
    terminal.say("done")
    assert screen.getvalue().rstrip().endswith("done")
    assert "\x1b[2K" in screen.getvalue()


def test_pipe_gets_no_spinner(capsys):
    assert not sys.stderr.isatty()
    with Console().working("loading tiny"):
        time.sleep(0.2)
    assert "\x1b" not in capsys.readouterr().err
