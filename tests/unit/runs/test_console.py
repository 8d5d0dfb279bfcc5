"""Signs of life: bars and a spinner on a terminal, occasional lines elsewhere, nothing about quick work."""

import io
import re
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from mosld.runs import console
from mosld.runs.console import Console, SafeConsole


@pytest.fixture
def quick(monkeypatch):
    """Notices come after tenths of a second."""
    monkeypatch.setattr(console, "FIRST_NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(console, "NOTICE_SECONDS", 0.15)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(log: Path | None = None, width: int = 100) -> tuple[Console, Terminal]:
    terminal = Console(log)
    screen = Terminal()
    terminal._err = SafeConsole(file=screen, force_terminal=True, width=width)
    return terminal, screen


def lines_of(log: Path) -> list[str]:
    """The lines of a log without their times.

    Raises:
        ValueError: a line has no time.
    """
    lines = log.read_text().splitlines()
    for line in lines:
        datetime.strptime(line[:19], "%Y-%m-%d %H:%M:%S")
    return [line[21:] for line in lines]


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
    assert lines_of(tmp_path / "train.log")[0] == "saving model/"


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


@pytest.mark.parametrize(("title", "total"), [("training", 40), ("training", 12_345)])
def test_bar_at_80_columns_has_30_of_them_and_names_its_times(title, total):
    terminal, screen = on_a_terminal(width=80)
    with terminal.progress(title, total) as advance:
        for _ in range(total // 2):
            advance("loss 4.578  balance loss 1.07  balance loss 1.07  4672 tokens/s")
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).splitlines()[-2:]
    assert len(re.findall("[━╸╺]", last[0])) >= 30
    assert re.search(r"\d:\d\d elapsed  \d+:\d\d left", last[0])
    assert last[1].strip() == "loss 4.578  balance loss 1.07  balance loss 1.07  4672 tokens/s"
    assert max(map(len, last)) <= 80


def test_log_has_the_lines_of_a_bar_on_a_terminal(tmp_path):
    terminal, _ = on_a_terminal(tmp_path / "train.log")
    with terminal.progress("training", 40) as advance:
        for step in range(40):
            advance(f"loss {step}")
    assert lines_of(tmp_path / "train.log") == [f"training {n}/40  loss {n - 1}" for n in range(2, 41, 2)]


def test_long_work_on_a_terminal_is_logged(quick, tmp_path):
    terminal, _ = on_a_terminal(tmp_path / "train.log")
    with terminal.working("loading llama2_7b"):
        time.sleep(0.2)
    assert lines_of(tmp_path / "train.log")[0] == "loading llama2_7b"


def test_lines_on_a_terminal_are_cut_between_words_and_commands_not_at_all(tmp_path):
    terminal, screen = on_a_terminal(tmp_path / "train.log", width=40)
    words = [f"task{number} {number}.25," for number in range(30)]
    terminal.say(" ".join(words))
    lines = screen.getvalue().splitlines()
    assert len(lines) > 5
    assert all(len(line) <= 40 for line in lines)
    assert " ".join(line.strip() for line in lines).split() == " ".join(words).split()
    command = "python -m mosld.train " + " ".join(words)
    terminal.say("resume with", command)
    assert screen.getvalue().endswith(f"resume with:\n  {command}\n")
    assert lines_of(tmp_path / "train.log") == [" ".join(words), f"resume with: {command}"]
