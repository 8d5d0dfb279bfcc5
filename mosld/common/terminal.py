"""What reaches a terminal: foreign text without characters that would steer it, on streams that may be dead."""

import os
import re
import sys
import threading
import traceback
from contextlib import suppress
from types import TracebackType

from mosld.common.secrets import redact

# Control characters but for a line's end and tab, marks that reverse the order of a text, and halves of a character.
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with every character that would steer a terminal as an escape, as Python writes it."""
    return STEERING.sub(lambda match: ascii(match[0])[1:-1], text)


def one_line(text: str) -> str:
    """As `visible`, with line ends and tabs as escapes, too: for a cell of a table."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def counted(number: int, noun: str) -> str:
    """A number and its noun: ``1 row``, ``5,260 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def guard_streams() -> None:
    """Let no message fail: a closed stream becomes the null device, and what cannot be encoded is escaped.

    What Python prints of a bug shows no secret and does not steer the terminal either.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = _print_bug
    threading.excepthook = lambda bug: _print_bug(bug.exc_type, bug.exc_value, bug.exc_traceback)


def _print_bug(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    sys.stderr.write(visible(redact("".join(traceback.format_exception(kind, error, trace)))))


def print_result(line: object) -> None:
    """Print the last line of a command whose work is done, whether or not somebody reads it."""
    with suppress(OSError):
        print(visible(str(line)), flush=True)


def flush_streams() -> None:
    """Write out what is buffered; what nobody reads is dropped, of which Python would complain when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
