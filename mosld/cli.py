"""What all commands share: exit codes, errors of the user without a traceback, and `--help`.

Exit codes: 0 finished, 2 a mistake of the user, 3 diverged, 4 some jobs of a sweep did not finish, 75 interrupted and
resumable, 130 stopped by Ctrl-C before a run began; a bug keeps its traceback and exits with 1.
"""

import argparse
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from mosld.common.errors import UserError, nearest
from mosld.common.process import several, silence_imports
from mosld.common.secrets import hidden
from mosld.config.fields import field_types
from mosld.config.groups import group_options
from mosld.config.rerun import rerun_config
from mosld.config.schema import Config
from mosld.runs.saved import SavedRun

# PART: What all commands share: exit codes, errors of the user without a traceback, and `--help`. Exit codes: 0
# finished, 2 a mistake of the user, 3 diverged, 4 some jobs of a sweep did not finish, 75 interrupted and
# resumable, 130 stopped by Ctrl-C before a run began; a bug keeps its traceback and exits with 1.


FINISHED, USER_ERROR, DIVERGED, JOBS_FAILED, INTERRUPTED, STOPPED = 0, 2, 3, 4, 75, 130
# Seconds that a process waits for the others of its run before it leaves. The main one may still write and send; of an
# interruption outside the loop the others may not know.
PATIENCE = {FINISHED: 60.0, DIVERGED: 60.0, INTERRUPTED: 5.0}


def run_command(command: Callable[[list[str]], int], usage: str, argv: Sequence[str] | None = None) -> int:
    """Run a command on its arguments and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        print(f"{usage}\n\n{describe_keys()}")
        return FINISHED
    silence_imports()
    patience = 0.0
    try:
        code = command(arguments)
        patience = PATIENCE.get(code, 0.0)
        return code
    except UserError as error:
        for message in error.messages:
            print(f"error: {hidden(message)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:  # before a run has begun: there is nothing to go on from
        return STOPPED
    finally:
        if several() and "mosld.distributed.processes" in sys.modules:
            sys.modules["mosld.distributed.processes"].leave(patience)


def describe_keys() -> str:
    """Every group with its options and every key with its meaning."""
    lines = ["Groups (group=option):"]
    lines += [f"  {group}={' | '.join(options)}" for group, options in group_options().items() if options]
    lines += ["", "Keys (key=value):", *_keys(Config, "")]
    return "\n".join(lines)


def _keys(cls: Any, where: str) -> list[str]:
    lines = []
    hints = field_types(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            lines += _keys(hints[field.name], f"{field.name}.")
        else:
            choices = field.metadata["choices"]
            listed = f" [{' | '.join(choices)}]" if choices else ""
            lines.append(f"  {where + field.name:32} {field.metadata['help']}{listed}")
    return lines


# PART: Commands that take ordinary arguments (`--name value`) in place of Hydra overrides. Exit codes as in `cli`,
# and the shell's own: 130 stopped by Ctrl-C, 141 nobody reads the output any more.


STOPPED, UNREAD = 130, 141


class FlagParser(argparse.ArgumentParser):
    """A parser whose every complaint is a `UserError`, with the nearest flag for an unknown one."""

    def __init__(self, command: str, description: str) -> None:
        """A parser of ``python -m mosld.<command>`` that knows `--help` alone."""
        super().__init__(
            prog=f"python -m mosld.{command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """What argparse calls on a missing or wrong value."""
        raise UserError(f"{message} (see --help).")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The values of the flags.

        Raises:
            UserError: with one message for each mistake.
        """
        names = sorted(name for action in self._actions for name in action.option_strings if name.startswith("--"))
        unknown = [given for given in arguments if given.startswith("--") and given.split("=")[0] not in (*names, "--")]
        if unknown:
            raise UserError(*(f"{given}: unknown flag; {nearest(given.split('=')[0], names)}" for given in unknown))
        flags, extra = self.parse_known_args(arguments)
        if extra:
            raise UserError(f"{' '.join(extra)}: not expected here; put quotes around a text with spaces (see --help).")
        return flags


def run_flags(
    command: Callable[[argparse.Namespace], int], parser: FlagParser, argv: Sequence[str] | None = None
) -> int:
    """Run a command on its flags and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        print(parser.format_help())
        return FINISHED
    try:
        return run_command(lambda given: command(parser.read(given)), "", arguments)
    except KeyboardInterrupt:
        return STOPPED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again when it ends
        return UNREAD


@contextmanager
def ending_on_ctrl_c() -> Iterator[None]:
    """Ctrl-C ends the process at once, for imports: numpy's, interrupted half way, ends in an endless recursion."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def add_run(parser: FlagParser) -> None:
    """The arguments that say which run, and on which base model."""
    parser.add_argument("run", metavar="RUN", help="a run directory, or an adapter or model directory")
    parser.add_argument("--model-path", metavar="DIR", help="a local checkpoint of the run's base model")


def run_config(run: SavedRun, flags: argparse.Namespace, **model: Any) -> Config:
    """The run's config with the given base model and other keys of the model group.

    Raises:
        UserError: what does not fit.
    """
    given = {**model, **({"path": flags.model_path} if flags.model_path else {})}
    return rerun_config({**run.recorded, "model": {**(run.recorded.get("model") or {}), **given}}, [])


def at_least(smallest: float, kind: type = int) -> Callable[[str], Any]:
    """The type of a flag whose value is a number of at least `smallest`."""

    def read(text: str) -> Any:
        """The number."""
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not smallest <= value < float("inf"):
            whole = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text}: must be {whole} of at least {smallest:g}")
        return value

    return read
