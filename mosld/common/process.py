"""Which of several processes this one is, as torchrun and `accelerate launch` say it in the environment."""

import logging
import os
import sys
import warnings
from collections.abc import Callable

from mosld.common.errors import ExitCode, UserError
from mosld.common.secrets import hidden

# PART: Which of several processes this one is, as torchrun and `accelerate launch` say it in the environment.


def is_main() -> bool:
    """Whether this process prints and writes files: the first of all, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def several() -> bool:
    """Whether a launcher started more than one process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


# PART: Libraries' own chatter: progress bars for every loaded tensor and warnings that no user can act on.


def silence_libraries() -> None:
    """Leave errors, and what mosld itself says."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not torch.accelerator.is_available():  # else DeepSpeed, which others import where it is installed, says so
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft|accelerate")


def silence_imports() -> None:
    """What libraries say while they are imported: bitsandbytes misses kernels that it would have to download."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


# Seconds to wait for the other processes of a run before leaving: the main one may still write and upload. After an
# interruption outside the training loop the others may not know of it.
EXIT_WAIT_SECONDS = {ExitCode.FINISHED: 60.0, ExitCode.DIVERGED: 60.0, ExitCode.INTERRUPTED: 5.0}
_at_exit: list[Callable[[float], None]] = []


def on_command_end(leave: Callable[[float], None]) -> None:
    """Call `leave` with the seconds to wait when the command ends; the process group registers itself here."""
    _at_exit.append(leave)


def run_to_exit_code(work: Callable[[], int]) -> int:
    """Run a command's work; print the user's mistakes on stderr and return the exit code. A bug is raised."""
    wait_seconds = 0.0
    try:
        code = work()
        wait_seconds = EXIT_WAIT_SECONDS.get(ExitCode(code), 0.0)
        return code
    except UserError as error:
        for message in error.messages:
            print(f"error: {hidden(message)}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except KeyboardInterrupt:
        # No run has begun: there is nothing to resume.
        return ExitCode.STOPPED
    finally:
        for leave in _at_exit:
            leave(wait_seconds)
