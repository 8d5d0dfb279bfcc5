"""What all commands share: exit codes, errors of the user without a traceback, and `--help`.

Exit codes: 0 finished, 2 a mistake of the user, 3 diverged, 4 some jobs of a sweep did not finish, 75 interrupted and
resumable, 130 stopped by Ctrl-C before a run began; a bug keeps its traceback and exits with 1.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mosld.config import Config, UserError, group_options
from mosld.config.ranks import several
from mosld.config.secrets import hidden
from mosld.config.setting import field_types
from mosld.quiet import silence_imports

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
        if several() and "mosld.model.processes" in sys.modules:
            sys.modules["mosld.model.processes"].leave(patience)


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
