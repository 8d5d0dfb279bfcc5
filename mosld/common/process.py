"""Which of several processes this one is, as torchrun and `accelerate launch` say it in the environment."""

import logging
import os
import warnings

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
