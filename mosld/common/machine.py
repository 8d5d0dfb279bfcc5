"""What a command needs of its machine: a working directory, and a launcher's variables that agree."""

import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from mosld.common.errors import UserError
from mosld.common.terminal import flush_streams

LAUNCHER_NUMBERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
PORTS = 2**16
# It is no Exception, and has no public class.
PANIC = "PanicException"
ADVICE = "a launcher (torchrun, accelerate launch) sets it; start the command with one, or unset it"


def check_machine(arguments: list[str]) -> None:
    """Check the working directory, the encoding of the arguments, and the variables of a launcher.

    Raises:
        UserError: with one message per fault.
    """
    errors = [f"{text!a}: is no UTF-8; rename the file." for text in arguments if re.search("[\ud800-\udfff]", text)]
    try:
        os.getcwd()
    except OSError:
        errors.append("the working directory was deleted; change to another one.")
    errors += _launcher_faults()
    if errors:
        raise UserError(*errors)


def _launcher_faults() -> list[str]:
    given = {name: os.environ[name] for name in LAUNCHER_NUMBERS if name in os.environ}
    wrong = [name for name, text in given.items() if not re.fullmatch(r"[0-9]{1,6}", text)]
    if wrong:
        return [f"{name}={given[name]}: must be a whole number; {ADVICE}." for name in wrong]
    count = int(given.get("WORLD_SIZE", "1"))
    faults = ["WORLD_SIZE=0: must be at least 1."] if count < 1 else []
    # Such a process would take itself for one that writes nothing.
    faults += [
        f"{name}={given[name]}: must be below WORLD_SIZE ({count}); {ADVICE}."
        for name in ("RANK", "LOCAL_RANK")
        if int(given.get(name, "0")) >= max(1, count)
    ]
    missing = [name for name in ("RANK", *ADDRESS) if name not in os.environ]
    if count > 1 and missing:
        faults.append(f"WORLD_SIZE={count}: without {', '.join(missing)}; {ADVICE}.")
    port = os.environ.get("MASTER_PORT", "0")
    if count > 1 and not (re.fullmatch(r"[0-9]{1,5}", port) and int(port) < PORTS):
        faults.append(f"MASTER_PORT={port}: must be a whole number below {PORTS}; {ADVICE}.")
    return faults


@contextmanager
def foreign_code(explain: Callable[[BaseException], str]) -> Iterator[None]:
    """Make one message of whatever a library raises of a foreign file; `explain` writes it.

    Raises:
        UserError: the message.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # A library written in Rust (tokenizers, safetensors) panics.
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise UserError(explain(error)) from error


@contextmanager
def without_panic_note() -> Iterator[None]:
    """Keep the note off the terminal that a library written in Rust prints before it panics; the error has its words.

    What else is printed to stderr meanwhile follows afterwards.
    """
    try:
        held, stderr = tempfile.TemporaryFile(), os.dup(2)  # noqa: SIM115 (closed below)
    except OSError:
        # There is no stderr, or no room for a file.
        yield
        return
    panicked = False
    flush_streams()
    os.dup2(held.fileno(), 2)
    try:
        yield
    except BaseException as error:
        panicked = type(error).__name__ == PANIC
        raise
    finally:
        flush_streams()
        os.dup2(stderr, 2)
        os.close(stderr)
        with held, suppress(OSError):
            held.seek(0)
            if not panicked and (text := held.read()):
                os.write(2, text)


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """End foreign code that never ends: a chat template, a regular expression. The main thread alone can do so.

    Args:
        seconds: of CPU time, so that a busy machine ends nothing that would end by itself.
        what: names the code in the message.

    Raises:
        UserError: the time is up.
    """
    # Windows has no such clock: there the code is only waited for.
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise UserError(f"{what} takes more than {seconds:g} seconds of CPU time; it may never end.")

    before = signal.signal(signal.SIGPROF, interrupt)
    # Again, as an exception is lost that is raised while Python destroys an object.
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
