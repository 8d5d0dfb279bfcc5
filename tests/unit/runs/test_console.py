"""Signs of life: bars and a wheel on a terminal, lines now and then elsewhere, nothing about what is quick."""

import io
import sys
import time

import pytest
from rich.console import Console as RichConsole

from mosld.runs import console
from mosld.runs.console import Console


@pytest.fixture
def quick(monkeypatch):
    """Half a second of the clock is a tenth of one."""
    monkeypatch.setattr(console, "SOON", 0.1)
    monkeypatch.setattr(console, "OFTEN", 0.15)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_a_terminal() -> tuple[Console, Terminal]:
    made, screen = Console(), Terminal()
    made._err = RichConsole(file=screen, force_terminal=True, width=100)
    return made, screen


def test_quick_work_says_nothing_in_a_log(capsys):
    with Console().working("loading tiny"):
        pass
    list(Console().track("scoring")(range(100)))
    assert capsys.readouterr().err == ""


def test_long_work_says_so_once_and_then_with_its_seconds(quick, capsys):
    with Console().working("loading llama2_7b"):
        time.sleep(0.5)
    first, *later = capsys.readouterr().err.splitlines()
    assert first == "loading llama2_7b"
    assert 1 <= len(later) <= 3
    assert all(line.startswith("loading llama2_7b (") for line in later)


def test_nothing_is_said_after_work_is_done_or_has_failed(quick, capsys):
    with pytest.raises(ValueError, match="no such model"), Console().working("loading tiny"):
        raise ValueError("no such model")
    time.sleep(0.3)
    assert capsys.readouterr().err == ""


def test_a_long_count_is_told_now_and_then_in_a_log(quick, capsys):
    for _ in Console().track("scoring")(range(10)):
        time.sleep(0.05)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3
    assert all(line.startswith("scoring ") and line.endswith("/10") for line in lines)


def test_the_log_file_has_the_lines_too(quick, tmp_path):
    with Console(tmp_path / "train.log").working("saving model/"):
        time.sleep(0.3)
    assert (tmp_path / "train.log").read_text().startswith("saving model/\n")


def test_a_terminal_shows_a_wheel_that_goes_away():
    made, screen = on_a_terminal()
    with made.working("loading llama2_7b"):
        time.sleep(0.2)
        assert "loading llama2_7b" in screen.getvalue()
    made.say("done")
    assert screen.getvalue().rstrip().endswith("done")
    assert "\x1b[2K" in screen.getvalue()  # the line of the wheel was erased


def test_no_wheel_turns_in_a_pipe(capsys):
    assert not sys.stderr.isatty()
    with Console().working("loading tiny"):
        time.sleep(0.2)
    assert "\x1b" not in capsys.readouterr().err
