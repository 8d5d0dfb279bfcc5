"""The process of a command: which of several it is, what it prints, and its exit code."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from mosld.common.errors import ExitCode, UserError, is_out_of_memory
from mosld.common.secrets import redact
from mosld.common.terminal import flush_streams, guard_streams, visible

# How long to wait for the other processes of a run before leaving: the main one may still write and upload. After an
# interruption outside the training loop the others may not know of it.
EXIT_WAIT_SECONDS = {ExitCode.FINISHED: 60.0, ExitCode.DIVERGED: 60.0, ExitCode.INTERRUPTED: 5.0}

# A launcher ends the other processes within a tenth of a second of the first error.
REPEAT_SECONDS = 3.0

_on_end: list[Callable[[float], None]] = []


def is_main() -> bool:
    """Whether this process prints and writes files: the first of all, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def is_distributed() -> bool:
    """Whether a launcher (torchrun, `accelerate launch`) started more than one process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return hasattr(shell, "kernel")


def silence_libraries() -> None:
    """Turn off the libraries' progress bars per tensor and what they log; errors stay."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not torch.accelerator.is_available():
        # Otherwise DeepSpeed, which other libraries import if it is installed, prints that there is none.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def silence_imports() -> None:
    """Turn off what libraries say that no user can act on: kernels and widgets that they lack, their own old calls."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="IProgress not found")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft|accelerate")


def refuse_light_install(missing: ModuleNotFoundError) -> NoReturn:
    """End a command that lacks a package of the extra `train`; where Python imported the command, raise."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if not (spec and spec.name.startswith("mosld.")) and Path(*sys.argv[:1]).stem != "mosld":
        raise missing
    _print_errors([f"the commands need {missing.name}, which only adapters do without: pip install 'mosld[train]'."])
    sys.exit(ExitCode.USER_ERROR)


def on_command_end(leave: Callable[[float], None]) -> None:
    """Call `leave` with the seconds to wait when the command ends; the process group registers itself here."""
    _on_end.append(leave)


def run_to_exit_code(work: Callable[[], int]) -> int:
    """Run a command's work; print the mistakes of the user or the machine on stderr and return the exit code.

    A bug is raised.
    """
    guard_streams()
    wait_seconds = 0.0
    try:
        code = ExitCode(work())
        wait_seconds = EXIT_WAIT_SECONDS.get(code, 0.0)
    except UserError as error:
        _print_errors(error.messages)
        return ExitCode.USER_ERROR
    except BrokenPipeError:
        return ExitCode.UNREAD
    except OSError as error:
        if error.errno is None:
            raise
        # The disk, a permission, a file that went away.
        _print_errors([f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."])
        return ExitCode.USER_ERROR
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _print_errors([f"out of memory: {' '.join(str(error).split())[:200]}. Choose a smaller model or adapter."])
        return ExitCode.USER_ERROR
    except KeyboardInterrupt:
        # No run has begun: there is nothing to resume.
        return ExitCode.STOPPED
    else:
        return code
    finally:
        for leave in _on_end:
            leave(wait_seconds)
        flush_streams()


def _print_errors(messages: list[str]) -> None:
    """Print a mistake; the first process of each machine does it alone where all make the same one."""
    if is_distributed() and os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(REPEAT_SECONDS)
    with suppress(OSError):
        for message in messages:
            print(f"error: {visible(redact(message))}", file=sys.stderr)
