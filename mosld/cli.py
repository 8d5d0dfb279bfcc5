"""What all commands share: arguments, errors without a traceback, exit codes (`common.errors.ExitCode`), `--help`.

`train`, `eval` and `plan` take Hydra overrides (`run_command`); the other commands take flags (`run_flags`).
"""

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

from mosld.common.errors import ExitCode, UserError, nearest
from mosld.common.kernel_cache import limit_kernel_cache
from mosld.common.machine import check_machine
from mosld.common.process import refuse_light_install, run_to_exit_code, silence_imports
from mosld.common.threads import limit_spinning

try:
    from mosld.config.fields import LARGEST
    from mosld.config.options import CONFIG_DIR_VARIABLE
    from mosld.config.show import describe_config, describe_keys, fit
    from mosld.config.sweep import is_sweep
except ModuleNotFoundError as missing:
    refuse_light_install(missing)

Number = TypeVar("Number", int, float)


def run_command(
    command: Callable[[list[str]], int], usage: str, argv: Sequence[str] | None = None, output: str | None = None
) -> int:
    """Run a command on its overrides and return its exit code.

    Args:
        usage: what `--help` prints before groups and keys.
        argv: the arguments; None: those of the process.
        output: the key that `--output DIR` sets, where the command writes.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        check_machine(arguments)
        _take_config_directory(arguments)
        if "-h" in arguments or "--help" in arguments:
            print(f"{fit(usage)}\n\n{describe_keys(arguments)}")
            return ExitCode.FINISHED
        directory = _take_flag(arguments, "--output") if output else None
        if directory is not None:
            arguments.append(
                f"{output}='{directory}'" if re.search(r"[^\w./-]", directory) else f"{output}={directory}"
            )
        return command(arguments)

    limit_spinning()
    limit_kernel_cache()
    silence_imports()
    return run_to_exit_code(work)


def show_config(arguments: list[str]) -> bool:
    """With `--cfg`, print the composed config and where each value comes from; returns whether it did."""
    if "--cfg" not in arguments:
        return False
    if is_sweep(arguments):
        raise UserError("--cfg: shows the config of one run; leave -m and sweep= out.")
    print(describe_config([text for text in arguments if text != "--cfg"]))
    return True


def _take_flag(arguments: list[str], flag: str) -> str | None:
    """Take ``flag VALUE`` or ``flag=VALUE`` out of the arguments and return the value.

    Raises:
        UserError: the value is missing.
    """
    for index, text in enumerate(arguments):
        name, equals, value = text.partition("=")
        if name != flag:
            continue
        if not equals and index + 1 == len(arguments):
            raise UserError(f"{flag}: needs a value, as in {flag} DIR.")
        value = value if equals else arguments.pop(index + 1)
        del arguments[index]
        return value
    return None


def _take_config_directory(arguments: list[str]) -> None:
    """Let this command and the processes that it starts search the directory of `--config-dir`, too."""
    directory = _take_flag(arguments, "--config-dir")
    if directory is None:
        return
    if not Path(directory).is_dir():
        raise UserError(f"--config-dir {directory}: no such directory; it holds <group>/<option>.yaml.")
    os.environ[CONFIG_DIR_VARIABLE] = str(Path(directory).resolve())


class FlagParser(argparse.ArgumentParser):
    """A parser whose every complaint is a `UserError`, with the nearest flag for an unknown one."""

    def __init__(self, command: str, description: str) -> None:
        """A parser of ``python -m mosld.<command>`` that knows `--help` alone."""
        super().__init__(
            prog=f"python -m mosld.{command}",
            description=fit(description),
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
    limit_kernel_cache()
    silence_imports()

    def work() -> int:
        check_machine(arguments)
        code = command(parser.read(arguments))
        sys.stdout.flush()
        return code

    return run_to_exit_code(work)


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


def named_run(text: str) -> str:
    """The type of an argument that names a run: ``RUN`` or ``run=RUN``."""
    return text.removeprefix("run=")


def add_run(parser: FlagParser) -> None:
    """Add the arguments that name a run and its base model."""
    parser.add_argument("run", metavar="RUN", type=named_run, help="a run directory, or an adapter or model directory")
    parser.add_argument("--model-path", metavar="DIR", help="a local checkpoint of the run's base model")
    parser.add_argument(
        "--allow-other-base", action="store_true", help="use other base weights than those it was trained on"
    )


def base_model(flags: argparse.Namespace) -> dict[str, str | bool]:
    """The keys of the model group that the flags of `add_run` set."""
    given: dict[str, str | bool] = {"path": flags.model_path, "allow_other_base": flags.allow_other_base}
    return {key: value for key, value in given.items() if value}


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
