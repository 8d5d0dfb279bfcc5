"""Which of several processes this one is, as torchrun and `accelerate launch` say it in the environment."""

import os


def is_main() -> bool:
    """Whether this process prints and writes files: the first of all, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def several() -> bool:
    """Whether a launcher started more than one process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
