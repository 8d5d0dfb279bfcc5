"""Libraries' own chatter: progress bars for every loaded tensor and warnings that no user can act on."""

import logging
import os
import warnings


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
