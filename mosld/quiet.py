"""Libraries' own chatter: progress bars for every loaded tensor and warnings that no user can act on."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


def silence_libraries() -> None:
    """Leave errors, and what mosld itself says."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft|accelerate")


def silence_imports() -> None:
    """What libraries say while they are imported: bitsandbytes misses kernels that it would have to download."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def without_bars(module: ModuleType) -> Iterator[None]:
    """A library's module that draws a bar with tqdm, whether anyone can see it or not, does not."""
    drawn = module.tqdm
    module.tqdm = lambda items, **_: items  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.tqdm = drawn  # type: ignore[attr-defined]
