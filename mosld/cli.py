"""What all commands share: arguments, errors without a traceback, exit codes (`common.errors.ExitCode`), `--help`.

`train`, `eval` and `plan` take Hydra overrides (`run_command`); the other commands take flags (`run_flags`).
"""

import argparse
import dataclasses
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from mosld.common.errors import ExitCode, UserError, nearest
from mosld.common.machine import check_machine
from mosld.common.process import run_to_exit_code, silence_imports
from mosld.common.terminal import flush_streams
from mosld.common.threads import limit_spinning
from mosld.config.fields import LARGEST, field_types
from mosld.config.groups import group_options
from mosld.config.schema import Config

Number = TypeVar("Number", int, float)


def run_command(command: Callable[[list[str]], int], usage: str, argv: Sequence[str] | None = None) -> int:
    """Run a command on its overrides and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        print(f"{usage}\n\n{describe_keys()}")
        return ExitCode.FINISHED
    limit_spinning()
    silence_imports()

    def work() -> int:
        check_machine(arguments)
        return command(arguments)

    return run_to_exit_code(work)


def describe_keys() -> str:
    """Every group with its options and every key with its meaning."""
    lines = ["Groups (group=option):"]
    lines += [f"  {group}={' | '.join(options)}" for group, options in group_options().items() if options]
    lines += ["", "Keys (key=value):", *_keys(Config, "")]
    return "\n".join(lines)


def _keys(cls: type, where: str) -> list[str]:
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
        return ExitCode.FINISHED
    limit_spinning()
    silence_imports()

    def work() -> int:
        check_machine(arguments)
        code = command(parser.read(arguments))
        sys.stdout.flush()
        return code

    try:
        return run_to_exit_code(work)
    except KeyboardInterrupt:
        return ExitCode.STOPPED
    except BrokenPipeError:
        flush_streams()
        return ExitCode.UNREAD


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
    """Add the arguments that name a run and its base model."""
    parser.add_argument("run", metavar="RUN", help="a run directory, or an adapter or model directory")
    parser.add_argument("--model-path", metavar="DIR", help="a local checkpoint of the run's base model")


def at_least(smallest: Number) -> Callable[[str], Number]:
    """The type of a flag whose value is a number of at least `smallest`, whole where `smallest` is an int."""
    kind = type(smallest)

    def read(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not smallest <= value < LARGEST:
            whole = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text}: must be {whole} of at least {smallest:g} and below {LARGEST:g}")
        return value

    return read
