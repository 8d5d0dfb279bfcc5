"""No text of other origin steers a terminal, and no dead stream ends a run."""

import io
import re

import pytest
from rich.table import Table
from rich.text import Text

from mosld.common.terminal import one_line, visible
from mosld.runs.console import Console, SafeConsole

HOSTILE = "\x1b]0;title\x07\x1b[31mred\x9b2J\u202egnp.exe\r[/bold][red]:smile:\x00"
SHOWN = r"\x1b]0;title\x07\x1b[31mred\x9b2J\u202egnp.exe\r[/bold][red]:smile:\x00"


TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ")


class Dead(io.StringIO):
    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error


def test_control_characters_are_shown_as_escapes():
    assert visible(HOSTILE) == SHOWN
    assert visible("a\n\tb é ± 日本 👍") == "a\n\tb é ± 日本 👍"
    assert visible("half \ud800") == r"half \ud800"
    assert one_line("a\n\tb") == r"a\n\tb"


@pytest.mark.parametrize("show", [str, Text], ids=["text", "rich"])
def test_console_shows_them_in_lines_and_tables(show):
    out = io.StringIO()
    console = SafeConsole(file=out, width=200)
    table = Table(HOSTILE)
    table.add_row(show(HOSTILE))
    for what in (show(HOSTILE), table):
        console.print(what)
    # rich itself leaves the bell and the carriage return of its texts out.
    assert (
        out.getvalue().replace(r"\x07", "").replace(r"\r", "").count(SHOWN.replace(r"\x07", "").replace(r"\r", "")) == 3
    )
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "Input/output error"), ValueError("closed file")])
def test_message_to_a_dead_stream_is_dropped_and_stands_in_the_log(error, tmp_path, monkeypatch):
    dead = Dead()
    dead.error = error
    monkeypatch.setattr("sys.stderr", dead)
    monkeypatch.setattr("sys.stdout", dead)
    console = Console(tmp_path / "train.log")
    console.say(HOSTILE)
    console.show("a table")
    with console.progress("training", 1) as advance:
        advance("note")
    console.close()
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [TIME.sub("", line) for line in lines] == [SHOWN, "a table", "training 1/1  note"]
    assert [bool(TIME.match(line)) for line in lines] == [True, False, True]
